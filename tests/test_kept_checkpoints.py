"""Damaged checkpoints are noticed, an earlier one takes their place, and no moment is a bad one to be killed."""

import os
import random
import shutil
from collections import Counter

import pytest
import torch
from lightning.pytorch import Callback

import runs
import toy
from alphabar.errors import UserError
from alphabar.files.versions import existing_versions, insert_version, version_path
from alphabar.runs.checkpoints import torch_files
from alphabar.runs.checkpoints.kept_checkpoints import newest_checkpoint, take_up_best
from alphabar.runs.checkpoints.torch_files import load_torch_file
from alphabar.training.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from test_resume import equal, rows

WORDS = ("trainer.max_steps=30", "callbacks.samples=null", "callbacks.film=null", "callbacks.curves=null")
KILL = """
import os, sys
sys.path.insert(0, {root!r})
import train
from alphabar.training.callbacks.checkpoints import Checkpoints
original, before = Checkpoints._write, os.replace
def write(self, trainer, name, keep, rank):
    if trainer.global_step == 20 and name == {name!r}:
        os.replace = lambda *paths: os._exit(9)
    original(self, trainer, name, keep, rank)
Checkpoints._write = write
train.main()
"""


def damage(path, at, num=4096):
    """Inverts bytes of a file in place; from the end, where `at` is negative."""
    content = bytearray(path.read_bytes())
    at %= len(content)
    content[at : at + num] = bytes(255 - byte for byte in content[at : at + num])
    path.write_bytes(content)


def copied(tmp_path):
    """Returns a folder of one's own with a finished run that has last.ckpt, last-1.ckpt and best.ckpt."""
    folder = tmp_path / "run"
    shutil.copytree(runs.trained(*WORDS), folder)
    return folder


@pytest.mark.parametrize("at", [0, 3000, 100_000, -5000, -200])
def test_flipped_bytes_are_one_line_that_names_the_file(tmp_path, command, at):
    path = tmp_path / "some.ckpt"
    path.write_bytes((runs.trained(*WORDS) / "checkpoints" / "last.ckpt").read_bytes())
    damage(path, at)
    code, _, err = command("sample", f"checkpoint={path}", "num=1")
    assert code == 2
    assert err.startswith(f"error: checkpoint={path}: cannot be read, it is damaged, truncated or not a checkpoint (")
    assert err.count("\n") == 1


def test_no_byte_of_a_checkpoint_can_change_what_is_loaded(tmp_path):
    """Each byte of the headers and records of a small file, inverted and with one bit flipped, and each end cut off."""
    good, path = tmp_path / "good.ckpt", tmp_path / "bad.ckpt"
    content = {"weights": torch.randn(3), "step": 7, "name": "run"}
    AtomicCheckpointIO().save_checkpoint(content, good)
    whole, bits, refusals = good.read_bytes(), random.Random(0), list[str]()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= bits.choice([255, 1 << bits.randrange(8)])
        for damaged in (bytes(changed), whole[:at]) if at % 4 == 0 else (bytes(changed),):
            path.write_bytes(damaged)
            try:
                loaded = load_torch_file(path, "bad.ckpt", in_memory=at % 2 == 0)
            except UserError as error:
                refusals.append(str(error))
            else:
                assert equal(content, loaded), at
    assert len(refusals) > len(whole) // 2
    assert not any("\n" in refusal for refusal in refusals)


@pytest.fixture
def verified(monkeypatch):
    """Counts how often the checksums of each file are verified, by its name."""
    counts, verify = Counter(), torch_files.verify_checksums

    def count(path):
        counts[path.name] += 1
        verify(path)

    monkeypatch.setattr(torch_files, "verify_checksums", count)
    return counts


def test_a_resumed_run_verifies_each_checkpoint_once(tmp_path, command, verified):
    folder = copied(tmp_path)
    code, _, err = command("train", f"resume={folder}", "trainer.max_steps=31")
    assert code == 0, err
    assert verified == {"last.ckpt": 1, "best.ckpt": 1}


def test_a_file_that_has_changed_is_verified_again(tmp_path, verified):
    folder = copied(tmp_path)
    last, earlier = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "last-1"))
    for _ in range(2):
        load_torch_file(last, "last.ckpt")
    assert verified["last.ckpt"] == 1
    os.replace(earlier, last)
    load_torch_file(last, "last.ckpt")
    assert verified["last.ckpt"] == 2
    damage(last, 100_000)
    for _ in range(2):
        with pytest.raises(UserError, match=r"^last.ckpt: cannot be read, it is damaged"):
            load_torch_file(last, "last.ckpt")
    assert verified["last.ckpt"] == 4


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(tmp_path, command):
    folder = copied(tmp_path)
    last = folder / "checkpoints" / "last.ckpt"
    damage(last, 100_000)
    bad = last.read_bytes()
    code, _, err = command("train", f"resume={folder}")
    assert code == 0, err
    assert f"{last}: cannot be read, it is damaged" in err
    assert "going on from last-1.ckpt, step 20; what was trained after it is trained again" in err
    assert (folder / "checkpoints" / "last.ckpt.damaged").read_bytes() == bad
    uncut, resumed = runs.checkpoint(runs.trained(*WORDS)), runs.checkpoint(folder)
    for key in ("global_step", "state_dict", "ema", "optimizer_states"):
        assert equal(uncut[key], resumed[key]), key
    assert rows(folder) == rows(runs.trained(*WORDS))


def test_a_run_without_a_whole_checkpoint_is_refused_and_keeps_what_it_has(tmp_path, command):
    folder = copied(tmp_path)
    for name in ("last", "last-1"):
        damage(folder / "checkpoints" / f"{name}.ckpt", 3000)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, _, err = command("train", f"resume={folder}")
    assert code == 2
    best, last = "run/checkpoints/best.ckpt", "run/checkpoints/last.ckpt"
    step = runs.checkpoint(folder, "best")["global_step"]
    assert "last.ckpt: cannot be read, it is damaged" in err
    assert f", nor can last-1.ckpt be read; to go on from best.ckpt, step {step}: cp {best} {last}\n" in err
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    shutil.copy(best, last)
    code, _, err = command("train", f"resume={folder}")
    assert code == 0, err


def test_the_last_checkpoint_may_be_lost(tmp_path, caplog):
    folder = copied(tmp_path)
    (folder / "checkpoints" / "last.ckpt").unlink()
    assert newest_checkpoint(folder).step == 20
    assert "last.ckpt is missing: going on from last-1.ckpt, step 20" in caplog.text


def test_a_run_that_has_only_its_best_checkpoint_says_how_to_go_on_from_it(tmp_path, command):
    folder = copied(tmp_path)
    for name in ("last", "last-1"):
        (folder / "checkpoints" / f"{name}.ckpt").unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, _, err = command("train", f"resume={folder}")
    step = runs.checkpoint(folder, "best")["global_step"]
    hint = f"; to go on from best.ckpt, step {step}: cp run/checkpoints/best.ckpt run/checkpoints/last.ckpt\n"
    assert (code, err.count("\n"), err.endswith(hint)) == (2, 1, True), err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["checkpoints/best.ckpt", "checkpoints/last.ckpt"])
def test_a_kill_in_the_middle_of_writing_loses_nothing(tmp_path, name):
    """At step 20, before the best checkpoint has its name, and after that, but before the last one that knows of it has its own."""
    script = tmp_path / "kill.py"
    script.write_text(KILL.format(root=str(runs.ROOT), name=name))
    folder = tmp_path / "run"
    code, _, err = runs.run(str(script), *runs.words(*WORDS, folder=folder), cwd=tmp_path)
    assert code == 9, err
    assert runs.checkpoint(folder)["global_step"] == 10
    assert (folder / "checkpoints" / "best.ckpt").exists() == (name == "checkpoints/last.ckpt")
    code, _, err = runs.run("train.py", f"resume={folder}", cwd=tmp_path)
    assert code == 0, err
    uncut = runs.trained(*WORDS)
    assert runs.checkpoints(folder) == runs.checkpoints(uncut)
    assert not list((folder / "checkpoints").glob(".*"))
    for which in ("last", "last-1", "best"):
        one, other = runs.checkpoint(uncut, which), runs.checkpoint(folder, which)
        assert one["global_step"] == other["global_step"], which
        assert equal(one["state_dict"], other["state_dict"]), which
    assert rows(folder) == rows(uncut)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("keep", [2, 3])
@pytest.mark.parametrize("fatal", range(5))
def test_versions_are_whole_whenever_the_process_ends(tmp_path, fatal, keep, links):
    path, new = tmp_path / "last.ckpt", tmp_path / ".new.ckpt"
    for text in ("1", "2", "3"):
        new.write_text(text)
        insert_version(new, path, keep=keep)
    new.write_text("4")
    if (child := os.fork()) == 0:
        calls = 0

        def counted(call):
            def checked(*arguments, **options):
                nonlocal calls
                calls += 1
                if calls > fatal:
                    os._exit(9)
                if call is link and not links:
                    raise PermissionError
                return call(*arguments, **options)

            return checked

        link, os.replace = os.link, counted(os.replace)
        os.link = counted(os.link)
        insert_version(new, path, keep=keep)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (9 if fatal < keep + 1 else 0)
    left = {rank: each.read_text() for rank, each in existing_versions(path).items()}
    assert left[0] in ("3", "4")
    assert list(left.values()) == sorted(left.values(), reverse=True)
    new.write_text("5")
    insert_version(new, path, keep=keep)
    assert path.read_text() == "5"
    assert version_path(path, 1).read_text() == left[0]
    ended = list(tmp_path.glob(".*.tmp"))  # at most what the process that was ended left
    assert len(ended) <= 1
    assert not [file for file in ended if f".{os.getpid()}-" in file.name]


def test_as_many_best_checkpoints_are_kept_as_were_asked_for(tmp_path):
    module, callback = toy.module(), Checkpoints(100, keep_last=1, keep_best=3)
    fids = iter([5.0, 3.0, 4.0, float("inf"), 3.5, 9.0])

    class Measure(Callback):
        def on_train_batch_end(self, trainer, pl_module, *others):
            pl_module.figures["fid"] = next(fids)

    toy.trainer(tmp_path, [Measure(), callback], max_steps=6).fit(module, datamodule=toy.digits())
    names = ("best.ckpt", "best-1.ckpt", "best-2.ckpt", "last.ckpt")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == sorted(names)
    assert [runs.checkpoint(tmp_path, name.removesuffix(".ckpt"))["global_step"] for name in names] == [2, 5, 3, 6]
    assert take_up_best(tmp_path, 3) == [3.0, 3.5, 4.0]
    (tmp_path / "checkpoints" / "best-1.ckpt").unlink()
    assert take_up_best(tmp_path, 3) == [3.0, 4.0]
    damage(tmp_path / "checkpoints" / "best.ckpt", 5000)
    assert take_up_best(tmp_path, 3) == [4.0]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "best.ckpt.damaged", "last.ckpt"]


class Refine(Callback):
    """Makes the FID of each step a little better than any before."""

    def on_train_batch_end(self, trainer, pl_module, *others):
        pl_module.figures["fid"] = 1.0 - trainer.global_step / 100


def fit(folder, *callbacks, max_steps, ckpt_path=None):
    trainer = toy.trainer(folder, callbacks, max_steps=max_steps)
    trainer.fit(toy.module(), datamodule=toy.digits(), ckpt_path=ckpt_path, weights_only=True)


def test_a_fresh_run_takes_up_no_best_checkpoint_of_another(tmp_path):
    fit(tmp_path, Refine(), Checkpoints(2, keep_best=2), max_steps=2)
    fresh = Checkpoints(100)
    fit(tmp_path, fresh, max_steps=1)
    assert fresh.best_fids == []


def test_a_resumed_run_leaves_files_alone_that_it_did_not_name(tmp_path, caplog):
    """Such as those of a callback of Lightning in the same folder."""
    fit(tmp_path, Refine(), Checkpoints(2), max_steps=4)
    folder = tmp_path / "checkpoints"
    for name in ("best-500.ckpt", "best-1000.ckpt"):
        shutil.copy(folder / "best.ckpt", folder / name)
    torch.save({"state_dict": {}}, folder / "best.ckpt")
    before = {path.name: path.read_bytes() for path in folder.glob("best*")}
    resumed = Checkpoints(100, keep_best=3)
    fit(tmp_path, resumed, max_steps=5, ckpt_path=folder / "last.ckpt")
    assert resumed.best_fids == []
    assert {path.name: path.read_bytes() for path in folder.glob("best*")} == before
    assert "best.ckpt: is no best checkpoint of a run" in caplog.text


def test_a_whole_checkpoint_is_not_called_damaged_where_the_run_goes_on_from_an_earlier_one(tmp_path):
    fit(tmp_path, Checkpoints(2), max_steps=4)
    last = tmp_path / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    fit(tmp_path, Checkpoints(100), max_steps=3, ckpt_path=last.with_name("last-1.ckpt"))
    assert last.with_name("last.ckpt.unused").read_bytes() == before
    assert runs.checkpoint(tmp_path)["global_step"] == 3


def test_a_resumed_run_removes_what_a_killed_one_left_half_written(tmp_path, command):
    folder = copied(tmp_path)
    left = [folder / name for name in (".metrics.csv.7-0123abcd.tmp", "samples/.a.png.7-0123abcd.tmp")]
    left[1].parent.mkdir(exist_ok=True)
    for path in left:
        path.touch()
    code, _, err = command("train", f"resume={folder}", "trainer.max_steps=31")
    assert code == 0, err
    assert not [path for path in left if path.exists()]
