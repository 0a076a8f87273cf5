"""Folders and names: what is refused, what is understood, and that nothing is overwritten or left behind."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tokenreel.host import files
from tokenreel.host.files import FileNameError


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "a.mp4").write_bytes(b"a")
    (tmp_path / "in" / "sub" / "b.mp4").write_bytes(b"b")
    (tmp_path / "secret.mp4").write_bytes(b"s")
    with files.session(input_dir=tmp_path / "in", output_dir=tmp_path / "out", model_dir=tmp_path / "models"):
        yield tmp_path


def test_names_in_the_input_folder(folders):
    assert files.resolve_input("a.mp4") == str(folders / "in" / "a.mp4")
    assert files.resolve_input("sub/b.mp4") == str(folders / "in" / "sub" / "b.mp4")
    assert files.resolve_input("sub\\b.mp4") == str(folders / "in" / "sub" / "b.mp4")
    assert files.resolve_input("a.mp4 [input]") == str(folders / "in" / "a.mp4")


def test_annotations_name_the_other_folders(folders):
    (folders / "out").mkdir()
    (folders / "out" / "o.mp4").write_bytes(b"o")
    Path(files.temp_dir(), "t.mp4").write_bytes(b"t")
    assert Path(files.resolve_input("o.mp4 [output]")).read_bytes() == b"o"
    assert Path(files.resolve_input("t.mp4 [temp]")).read_bytes() == b"t"
    with pytest.raises(FileNameError, match=r"No file 'a\.mp4 \[output\]' in the output folder"):
        files.resolve_input("a.mp4 [output]")
    with pytest.raises(FileNameError, match=r"it has '\.\.'"):
        files.resolve_input("../secret.mp4 [output]")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.mp4", r"it has '\.\.'"),
        ("sub/../../secret.mp4", r"it has '\.\.'"),
        ("..\\secret.mp4", r"it has '\.\.'"),
        ("/etc/hostname", "absolute path"),
        ("//host/share/x.mp4", "absolute path"),
        ("\\\\host\\share\\x.mp4", "absolute path"),
        ("\\\\?\\C:\\x.mp4", "absolute path"),
        ("C:\\x.mp4", "absolute path"),
        ("c:/x.mp4", "absolute path"),
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("a\0.mp4", "control characters"),
        ("a\n.mp4", "control characters"),
        ("a\u202e4pm.exe", "control characters"),
        ("a\udcff.mp4", "control characters"),
        ("x" * 300, "longer than 255 bytes"),
        ("y/" * 600 + "x", "longer than 255 bytes"),
        ("CON", "not every system"),
        ("sub/nul.mp4", "not every system"),
        ("a.mp4.", "not every system"),
        ("a//b.mp4", "not every system"),
        ("./a.mp4", "not every system"),
    ],
)
def test_refused_names(folders, name, reason):
    for use in (files.resolve_input, lambda n: files.output_path(n, ".mp4").__enter__()):
        with pytest.raises(FileNameError, match=reason) as caught:
            use(name)
        assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
        assert str(folders) not in str(caught.value)
    assert not (folders / "out").exists()


@pytest.mark.parametrize(
    "name",
    ["\u65e5\u672c\u8a9e_\U0001f600 \u00fcn\u00ef.mp4", "-i.mp4", "a:b.mp4", "%d 'q' \"q\" #&.mp4", "a\u00a0b.mp4"],
)
def test_odd_names_are_taken_literally(folders, name):
    (folders / "in" / name).write_bytes(b"odd")
    assert Path(files.resolve_input(name)).read_bytes() == b"odd"


def test_missing_files_and_folders_are_named(folders):
    with pytest.raises(FileNameError, match=r"No file 'c\.mp4' in the input folder\. Put it there"):
        files.resolve_input("c.mp4")
    with pytest.raises(FileNameError, match="No file 'sub' in the input folder"):
        files.resolve_input("sub")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_may_not_lead_out(folders):
    (folders / "in" / "link.mp4").symlink_to(folders / "secret.mp4")
    (folders / "in" / "up").symlink_to(folders, target_is_directory=True)
    (folders / "in" / "near.mp4").symlink_to(folders / "in" / "a.mp4")
    for name in ("link.mp4", "up/secret.mp4"):
        with pytest.raises(FileNameError, match="a link out of its folder"):
            files.resolve_input(name)
    assert Path(files.resolve_input("near.mp4")).read_bytes() == b"a"
    (folders / "in2").symlink_to(folders / "in", target_is_directory=True)
    with files.session(input_dir=folders / "in2"):
        assert Path(files.resolve_input("a.mp4")).read_bytes() == b"a", "the folder itself may be a link"
    (folders / "out").mkdir()
    (folders / "out" / "up").symlink_to(folders, target_is_directory=True)
    with pytest.raises(FileNameError, match="a link out of its folder"), files.output_path("up/x", ".mp4"):
        pass


def test_a_folder_whose_name_begins_alike_is_outside(folders):
    (folders / "in-2").mkdir()
    (folders / "in-2" / "x.mp4").write_bytes(b"x")
    (folders / "in" / "link.mp4").symlink_to(folders / "in-2" / "x.mp4")
    with pytest.raises(FileNameError, match="a link out of its folder"):
        files.resolve_input("link.mp4")


def test_output_names_count_up(folders):
    names = []
    for _ in range(2):
        with files.output_path("sub/clip", ".mp4") as file:
            Path(file.path).write_bytes(b"new")
            names.append((file.filename, file.subfolder))
            assert file.path == str(folders / "out" / "sub" / file.filename)
    assert names == [("clip_00001_.mp4", "sub"), ("clip_00002_.mp4", "sub")]
    with files.output_path("sub/clip", ".json") as file:
        Path(file.path).write_bytes(b"{}")
    assert file.filename == "clip_00003_.json", "files of one run keep one number space, as in ComfyUI"
    with files.output_path("sub/clip2", ".mp4") as file:
        assert file.filename == "clip2_00001_.mp4"


def test_a_name_is_taken_while_it_is_written(folders):
    with files.output_path("clip", ".mp4") as first, files.output_path("clip", ".mp4") as second:
        assert (first.filename, second.filename) == ("clip_00001_.mp4", "clip_00002_.mp4")
        Path(second.path).write_bytes(b"x")
    assert [path.name for path in (folders / "out").iterdir()] == ["clip_00002_.mp4"], "an empty file is no result"


def test_a_failure_leaves_no_file(folders):
    with pytest.raises(KeyboardInterrupt), files.output_path("clip", ".mp4") as file:
        Path(file.path).write_bytes(b"half")
        raise KeyboardInterrupt
    assert list((folders / "out").iterdir()) == []


def test_prefix_variables_are_expanded_and_then_checked(folders):
    with files.output_path("%width%x%height%/%year%", ".png", width=4, height=2) as file:
        assert file.subfolder == "4x2" and file.filename.startswith("20")
    with files.output_path("100%_%nothing%", ".png") as file:
        assert file.filename == "100%_%nothing%_00001_.png"
    with pytest.raises(FileNameError, match=r"'\.\.'"), files.output_path("../%year%", ".png"):
        pass


def test_the_node_decides_on_the_suffix(folders):
    with files.output_path("a.html", ".mp4") as file:
        assert file.filename == "a.html_00001_.mp4"
    with pytest.raises(ValueError, match="Invalid suffix"), files.output_path("a", "/../x"):
        pass


def test_lists(folders):
    (folders / "in" / "c.png").write_bytes(b"")
    (folders / "in" / "d.TOKENS").write_bytes(b"")
    (folders / "models").mkdir()
    (folders / "models" / "m.safetensors").write_bytes(b"m")
    (folders / "models" / "m.pt").write_bytes(b"m")
    assert files.list_inputs("video") == ["a.mp4"]
    assert files.list_inputs("image") == ["c.png"]
    assert files.list_input_suffix(".tokens") == ["d.TOKENS"]
    assert files.list_models() == ["m.safetensors"]
    assert Path(files.resolve_model("m.safetensors")).read_bytes() == b"m"
    with pytest.raises(FileNameError, match=r"not a \.safetensors file"):
        files.resolve_model("m.pt")
    with pytest.raises(FileNameError, match=r"No weights 'n\.safetensors'.* Found: m\.safetensors"):
        files.resolve_model("n.safetensors")


def test_each_kind_of_weights_has_its_folder(tmp_path):
    (tmp_path / "g.safetensors").write_bytes(b"g")
    with files.session(model_dir=tmp_path / "none", generator_dir=tmp_path):
        assert files.list_models() == [] and files.list_models(files.GENERATOR_FOLDER) == ["g.safetensors"]
        found = files.resolve_model("g.safetensors", files.GENERATOR_FOLDER)
        assert Path(found).read_bytes() == b"g"
        with pytest.raises(FileNameError, match=r"No weights 'h\.safetensors' in token_generators\. Found: g"):
            files.resolve_model("h.safetensors", files.GENERATOR_FOLDER)
        with pytest.raises(FileNameError, match=r"in video_tokenizers\. Found: none"):
            files.resolve_model("g.safetensors")


def test_lists_of_folders_that_do_not_exist(tmp_path):
    with files.session(input_dir=tmp_path / "none", model_dir=tmp_path / "none"):
        assert files.list_inputs("video") == [] and files.list_models() == []


def test_sessions_nest_and_clean_up(tmp_path):
    with files.session(input_dir=tmp_path):
        outer = files.temp_dir()
        with files.session(input_dir=tmp_path / "x"):
            inner = files.temp_dir()
            Path(files.temp_path(".mp4")).write_bytes(b"x")
            assert files.input_dir() == str(tmp_path / "x")
        assert files.input_dir() == str(tmp_path) and files.temp_dir() == outer
        assert not os.path.exists(inner) and os.path.isdir(outer)
    assert not os.path.exists(outer)
    assert files.temp_path(".a") != files.temp_path(".a")


def test_each_thread_has_its_own_session(tmp_path):
    seen = {}

    def work(name, inside, done):
        with files.session(output_dir=tmp_path / name):
            inside.wait(5)
            seen[name] = (files.output_dir(), files.temp_dir())
            done.wait(5)  # both are inside at once
        assert not os.path.exists(seen[name][1])

    barriers = threading.Barrier(2), threading.Barrier(2)
    threads = [threading.Thread(target=work, args=(name, *barriers)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [seen[name][0] for name in "ab"] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert seen["a"][1] != seen["b"][1]


def test_a_name_can_stand_for_a_file_anywhere(folders):
    with files.session(input_dir=folders / "in", inputs={"clip.mp4": str(folders / "secret.mp4")}):
        assert files.resolve_input("clip.mp4") == str(folders / "secret.mp4")
        assert Path(files.resolve_input("a.mp4")).read_bytes() == b"a"
    with pytest.raises(FileNameError, match=r"No file 'clip\.mp4'"):
        files.resolve_input("clip.mp4")


def test_without_a_session_the_temp_folder_goes_when_the_process_ends():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import conftest\n"
        "from tokenreel.host import files\n"
        "print(files.temp_dir(), files.input_dir(), files.output_dir(), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)], capture_output=True, text=True, check=True
    )
    temp, where_from, where_to = done.stdout.split("\n")[:3]
    assert not os.path.exists(temp)
    assert (where_from, where_to) == (os.getcwd(), os.path.join(os.getcwd(), "output"))


def test_a_fingerprint_follows_the_content(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x" * 300_000)
    os.utime(path, (1, 1))
    before = files.fingerprint(str(path))
    assert files.fingerprint(str(path)) == before
    path.write_bytes(b"x" * 299_999 + b"y")
    os.utime(path, (1, 1))
    assert files.fingerprint(str(path)) != before, "same size and time, another end"
