"""Files that are replaced as a whole, and results that are kept on the disk."""

import hashlib
import os
import signal
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch

from alphabar.errors import UserError
from alphabar.files.atomic import atomic_writer, remove_temporaries, replaced_folder, write_text
from alphabar.files.cache import DiskCache
from alphabar.runs.folders import run_dir


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with atomic_writer(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def interrupted():
        with atomic_writer(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_meet_in_one_temporary_file(tmp_path):
    path = tmp_path / "file.txt"
    with atomic_writer(path) as first, atomic_writer(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_text() == "first"  # the one that ended last


def test_what_a_killed_process_left_behind_is_deleted(tmp_path):
    path = tmp_path / "ema" / "file.txt"
    path.parent.mkdir()
    killed = (
        "import os, signal; from pathlib import Path; from alphabar.files.atomic import atomic_writer\n"
        f"with atomic_writer(Path({str(path)!r})) as file:\n    file.write(b'new'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", killed]).returncode == -9
    assert len(list(path.parent.iterdir())) == 1
    assert not path.exists()
    others = [tmp_path / name for name in ("file.tmp", ".file.tmp", ".file.1-abc.tmp", ".file.12-0123456g.tmp")]
    for other in others:
        other.touch()
    remove_temporaries(tmp_path)
    assert list(path.parent.iterdir()) == []
    assert sorted(tmp_path.iterdir()) == sorted([path.parent, *others])


def test_a_folder_that_fails_half_way_leaves_the_old_one(tmp_path):
    folder = tmp_path / "folder"
    with replaced_folder(folder) as partial:
        (partial / "a").write_text("old")

    def broken():
        with replaced_folder(folder) as partial:
            (partial / "a").write_text("new")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    assert (folder / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_lock_ends_with_its_holder_and_not_with_the_processes_that_it_forked(tmp_path):
    """A forked child (as a DataLoader worker) outlives the holder that is killed, and nobody waits for it."""
    holder = (
        "import os, sys, time; from pathlib import Path; from alphabar.runs.folders.run_dir import lock\n"
        f"lock(Path({str(tmp_path)!r}))\n"
        "child = os.fork()\n"
        "if child == 0:\n    print(os.getpid(), flush=True)\n"  # it has run, and so has let go of what it inherited
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        with pytest.raises(UserError, match="another process is training this run"):
            run_dir.lock(tmp_path)
        process.kill()
        process.wait()
        process.stdout.close()
        run_dir.lock(tmp_path)
        run_dir.lock(tmp_path)  # this process may take it again
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)
        run_dir.unlock(tmp_path)


@pytest.fixture
def cache(tmp_path):
    return DiskCache(tmp_path / "cache")


def test_an_entry_is_made_once_for_each_key(cache):
    makings = []

    def entry(*key):
        return cache.load_or_make(cache.path("kind", *key), lambda: makings.append(key) or {"x": torch.arange(3.0)})

    for _ in range(2):
        for key in ((1, "a"), (1, "b"), ("1", "a")):
            assert torch.equal(entry(*key)["x"], torch.arange(3.0))
    assert makings == [(1, "a"), (1, "b"), ("1", "a")]
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".pt"] * 3


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-100], lambda content: content[:50] + b"?" + content[51:], lambda _: b""]
)
def test_a_damaged_entry_is_made_again_with_one_line(cache, caplog, damage):
    path = cache.path("kind", 1)
    cache.store(path, {"x": torch.zeros(100)})
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load_or_make(path, lambda: {"x": 1}) == {"x": 1}
    assert [record.getMessage() for record in caplog.records] == [f"cannot use {path}, so it is made again: it is damaged"]
    assert cache.load(path) == {"x": 1}


def test_an_array_of_another_size_is_not_a_part_of_it(cache):
    path = cache.path("kind", "key")
    assert cache.store_array(path, np.arange(12, dtype=np.float32))
    for shape in ((11,), (13,)):
        with pytest.raises(ValueError, match=r"need .* bytes for an array"):
            cache.map_array(path, np.float32, shape)


def test_an_array_is_read_whole_only_after_a_change(cache, caplog, monkeypatch):
    path, numbers = cache.path("array"), np.arange(12, dtype=np.float32).reshape(3, 4)
    assert cache.store_array(path, numbers)
    hashed = mock.Mock(side_effect=hashlib.file_digest)
    monkeypatch.setattr(hashlib, "file_digest", hashed)
    assert cache.is_intact(path)
    assert (cache.map_array(path, np.float32, (3, 4)) == numbers).all()
    assert not hashed.called
    os.utime(path)  # as a copy of the folder would have it
    assert [cache.is_intact(path), cache.is_intact(path)] == [True, True]
    assert hashed.call_count == 1
    times = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # a damage that hides behind the old time and size
    assert not cache.is_intact(path)
    assert caplog.messages == [f"cannot use {path}, so it is made again: it is damaged"]


def test_a_cache_that_cannot_be_written_costs_one_line(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = DiskCache(tmp_path / "file" / "cache")
    assert cache.load_or_make(cache.path("kind", 1), lambda: {"x": 1}) == {"x": 1}
    assert len(caplog.records) == 1
    assert "so the next run makes it again" in caplog.text


def test_processes_that_need_one_entry_make_it_once(cache):
    script = (
        "import sys, time; from pathlib import Path; from alphabar.files.cache import DiskCache\n"
        f"cache = DiskCache(Path({str(cache.folder)!r}))\n"
        "def make():\n    print('made', flush=True); time.sleep(1); return {'x': 1}\n"
        "assert cache.load_or_make(cache.path('kind', 1), make) == {'x': 1}"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert "".join(process.communicate()[0] for process in processes) == "made\n"
    assert [process.returncode for process in processes] == [0, 0]
