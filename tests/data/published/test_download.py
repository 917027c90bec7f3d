"""Downloads against a server on this machine: cut, changed, hostile, killed; no TensorFlow."""

import hashlib
import http.server
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from tensorflow_datasets.core.download import downloader

from tests import sources
from tests.tiny import ROOT, wlsrl
from wlsrl_jax.data.published import all_specs
from wlsrl_jax.data.published import download as module
from wlsrl_jax.data.published.archives import BadArchiveError
from wlsrl_jax.data.published.download import CHECKSUMS, DownloadError, File, download, fetch


class Server:
    """Serves bytes by path; ``cut`` of them at most, slowly if asked."""

    def __init__(self):
        self.files, self.cut, self.pause, self.requests = {}, None, 0.0, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += 1
                data = outer.files.get(self.path)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                data = (data or b"")[: outer.cut]
                for start in range(0, len(data), 65536):
                    try:
                        self.wfile.write(data[start : start + 65536])
                    except OSError:
                        return
                    time.sleep(outer.pause)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def file(self, name, data, md5=""):
        self.files[f"/{name}"] = data
        return File(f"http://127.0.0.1:{self.server.server_port}/{name}", name, md5)


@pytest.fixture
def server():
    made = Server()
    yield made
    made.server.shutdown()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_first_download_is_recorded_and_a_second_one_is_not_made(server, tmp_path, capsys):
    data = os.urandom(200_000)
    file = server.file("a.bin", data)
    path = fetch(file, tmp_path)
    digest = hashlib.sha256(data).hexdigest()
    assert path.read_bytes() == data and names(tmp_path) == ["a.bin", CHECKSUMS]
    assert f"a.bin: SHA-256 {digest}, trusted on first use" in capsys.readouterr().out
    assert digest in (tmp_path / CHECKSUMS).read_text()
    assert fetch(file, tmp_path) == path and server.requests == 1
    assert "trusted" not in capsys.readouterr().out


def test_a_cut_download_leaves_nothing(server, tmp_path):
    file = server.file("a.bin", os.urandom(500_000))
    server.cut = 100_000
    with pytest.raises(DownloadError, match=r"a\.bin cannot be fetched .*run the same command"):
        fetch(file, tmp_path)
    assert names(tmp_path) == []
    server.cut = None
    assert fetch(file, tmp_path).stat().st_size == 500_000


def test_a_changed_file_is_not_taken(server, tmp_path):
    file = server.file("a.bin", b"first" * 1000)
    path = fetch(file, tmp_path)
    path.write_bytes(b"other")
    with pytest.raises(DownloadError, match=r"a\.bin has SHA-256 .* Delete it and run this again"):
        fetch(file, tmp_path)
    path.unlink()
    server.file("a.bin", b"second" * 1000)
    with pytest.raises(DownloadError, match="wrong checksum"):
        fetch(file, tmp_path)
    assert names(tmp_path) == [CHECKSUMS]
    server.file("a.bin", b"first" * 1000)
    assert fetch(file, tmp_path).read_bytes() == b"first" * 1000


def test_a_published_checksum_is_held_to(server, tmp_path):
    good, bad = b"good" * 100, b"evil" * 100
    file = server.file("a.npz", bad, hashlib.md5(good).hexdigest())
    with pytest.raises(DownloadError, match="its MD5 is not .*, which its publisher names"):
        fetch(file, tmp_path)
    assert names(tmp_path) == [CHECKSUMS] and not (tmp_path / CHECKSUMS).read_text()
    server.file("a.npz", good)
    assert fetch(file, tmp_path).read_bytes() == good


def test_missing_and_unreachable(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloader, "MAX_RETRIES", 1)  # ten take three minutes
    with pytest.raises(DownloadError, match="404"):
        fetch(File(server.file("a", b"").url + "none", "b"), tmp_path)
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(DownloadError, match="cannot be fetched"):
        fetch(server.file("a.bin", b"x"), tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_download_prepare(server, tmp_path, monkeypatch, capsys):
    folder = sources.octdl_published(tmp_path / "server")
    files = tuple(server.file(p.name, p.read_bytes()) for p in sorted(folder.iterdir()))
    monkeypatch.setitem(module.FILES, "octdl", {"here": files})
    assert wlsrl("download", "--dataset=octdl", f"--output={tmp_path / 'out'}") == 0
    original = tmp_path / "out" / "octdl" / "original"
    assert f"--dataset=octdl --source={original}" in capsys.readouterr().out
    assert names(original) == ["OCTDL", "OCTDL_labels.csv"]
    prepared = tmp_path / "d"
    flags = [f"--source={original}", f"--data_dir={prepared}", "--size=32x32"]
    assert wlsrl("prepare", "--dataset=octdl", *flags) == 0
    assert wlsrl("download", "--dataset=octdl", f"--output={tmp_path / 'out'}") == 0
    assert server.requests == 2
    assert wlsrl("download", "--dataset=octdl", "--variant=9", f"--output={tmp_path / 'out'}") == 2
    assert "--variant=9: octdl has here" in capsys.readouterr().err


def test_a_hostile_archive_leaves_the_download_and_nothing_else(server, tmp_path, monkeypatch):
    evil = sources.make_zip(tmp_path / "evil.zip", {"x/../../evil.txt": b"x"}, macos=False)
    files = (server.file("OCTDL.zip", evil.read_bytes()),)
    monkeypatch.setitem(module.FILES, "octdl", {"here": files})
    for _ in range(2):
        with pytest.raises(BadArchiveError, match="leads out of the target folder"):
            download("octdl", tmp_path / "out")
    assert names(tmp_path / "out") == ["downloads"]
    assert not list(tmp_path.rglob("evil.txt"))


SCRIPT = """
    import sys
    from pathlib import Path
    from wlsrl_jax.data.published.download import File, fetch
    fetch(File(sys.argv[1], "a.bin"), Path(sys.argv[2]))
    assert "tensorflow" not in sys.modules
"""


def test_a_killed_download_starts_anew(server, tmp_path):
    file = server.file("a.bin", os.urandom(3_000_000))
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), file.url, str(tmp_path)]
    server.pause = 0.2
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for p in tmp_path.rglob("a.bin")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a.bin").exists()
    server.pause = 0.0
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "a.bin").stat().st_size == 3_000_000
    assert names(tmp_path) == ["a.bin", CHECKSUMS]


@pytest.mark.parametrize("name", sorted(all_specs()))
def test_every_data_set_can_be_fetched_or_says_how(name, tmp_path, capsys):
    assert (name in module.FILES) != (name in module.BY_HAND)
    if name in module.FILES:
        for files in module.FILES[name].values():
            assert all(f.url.startswith("https://") and f.name for f in files)
        return
    assert wlsrl("download", f"--dataset={name}", f"--output={tmp_path}") == 2
    text = capsys.readouterr().err
    spec = all_specs()[name]
    assert spec.homepage in text and spec.license in text and f"--dataset={name} --source" in text
    assert list(tmp_path.iterdir()) == []


def test_published_sums_are_those_of_medmnist():
    medmnist = pytest.importorskip("medmnist")
    for name in ("octmnist", "retinamnist"):
        info = medmnist.INFO[name]
        for size, (file,) in module.FILES[name].items():
            suffix = "" if size == "28" else f"_{size}"
            assert (file.url, file.md5) == (info[f"url{suffix}"], info[f"MD5{suffix}"])
        assert all_specs()[name].published["all"]["all"] == sum(info["n_samples"].values())


def test_an_unknown_name(tmp_path, capsys):
    assert wlsrl("download", "--dataset=mnist", f"--output={tmp_path}") == 2
    assert "Unknown data set 'mnist'" in capsys.readouterr().err
