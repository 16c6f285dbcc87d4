"""Files that are replaced as a whole."""

import os
import signal
import subprocess
import sys

import pytest

from alphabar.errors import UserError
from alphabar.files.atomic import atomic_writer, remove_leftovers, replaced_folder, write_text
from alphabar.runs import run_dir


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
    path = tmp_path / "file.txt"
    killed = (
        "import os, signal; from pathlib import Path; from alphabar.files.atomic import atomic_writer\n"
        f"with atomic_writer(Path({str(path)!r})) as file:\n    file.write(b'new'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", killed]).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    assert not path.exists()
    remove_leftovers(path)
    assert list(tmp_path.iterdir()) == []


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
        "import os, sys, time; from pathlib import Path; from alphabar.runs.run_dir import lock\n"
        f"lock(Path({str(tmp_path)!r}))\n"
        "child = os.fork()\n"
        "if child == 0:\n    time.sleep(60)\n"
        "print(child, flush=True); time.sleep(60)"
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
