#!/usr/bin/env bash
# Everything about speed that waits for a GPU, in starts of at most nine minutes each: training, sampling, compilation and correctness.
#
#   benchmarks/gpu.sh              results in outputs/gpu; OUT=FOLDER puts them elsewhere
#   SMOKE=1 benchmarks/gpu.sh      the same code on a CPU at a size that measures nothing
#
# Started again, it does what is missing: a part that is complete is left as it is, one that was cut off goes on. A part that fails
# does not stop the others. Ends with 0 if all is there and as it must be, 1 if not, and 2 without a GPU.
# LIMIT: seconds for all parts. PYTHON: of an environment with alphabar; .venv/bin/python if it is there.
set -u
cd "$(dirname "$0")/.." || exit 2
SMOKE=${SMOKE:-}
OUT=${OUT:-outputs/gpu${SMOKE:+_smoke}}
LIMIT=${LIMIT:-515}
LEAST=20 # seconds, with which a part is worth starting
[ -n "${PYTHON:-}" ] || { [ -x .venv/bin/python ] && PYTHON=.venv/bin/python || PYTHON=python; }
PARTS="samples:170 training:100 compiled:150 correctness:130 features:60 table:240 channels_first:100" # with the most seconds of each
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
size=()
if [ -n "$SMOKE" ]; then
  export CUDA_VISIBLE_DEVICES=
  size=(--smoke)
elif ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "benchmarks/gpu.sh: $PYTHON has no torch that sees a GPU of CUDA; SMOKE=1 runs the code on a CPU" >&2
  exit 2
fi

mkdir -p "$OUT" || exit 2
wrong=()
for each in $PARTS; do
  part=${each%:*} seconds=${each#*:}
  left=$((LIMIT - SECONDS))
  if [ "$left" -lt "$LEAST" ]; then
    wrong+=("$part: no time left, start this command again")
    continue
  fi
  [ "$seconds" -le "$left" ] || seconds=$left
  echo "== $part: at most $seconds s"
  timeout -k 5 "$seconds" "$PYTHON" benchmarks/gpu.py "$part" --out "$OUT" ${size[@]+"${size[@]}"} 2>&1 | tee -a "$OUT/$part.log"
  case ${PIPESTATUS[0]} in
    0) ;;
    124 | 137) wrong+=("$part: cut off after $seconds s, start this command again") ;;
    *) wrong+=("$part: failed, see $OUT/$part.log") ;;
  esac
done

"$PYTHON" benchmarks/gpu.py --out "$OUT" 2>&1 | tee "$OUT/summary.txt"
[ "${PIPESTATUS[0]}" -eq 0 ] || wrong+=("not all is there and as it must be, see the end of $OUT/summary.txt")
[ ${#wrong[@]} -eq 0 ] && exit 0
printf '%s\n' "${wrong[@]}" >&2
exit 1
