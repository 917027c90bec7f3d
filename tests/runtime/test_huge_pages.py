import os
import subprocess
import sys

CODE = """
import os, sys
from wlsrl_jax.runtime.huge_pages import restart_with_huge_pages
restart_with_huge_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], os.getpid())
"""


def started(tmp_path, **variables):
    script = tmp_path / "script.py"
    script.write_text(CODE)
    env = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    process = subprocess.Popen(
        [sys.executable, str(script), "a b", "--c=1"],
        env={**env, **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = process.communicate(timeout=60)
    return process, out.strip()


def test_a_process_starts_itself_again_with_the_same_arguments_and_number(tmp_path):
    process, out = started(tmp_path)
    setting = "glibc.malloc.hugetlb=1" if sys.platform == "linux" else "None"
    assert out == f"{setting} ['a b', '--c=1'] {process.pid}"


def test_a_users_setting_is_kept(tmp_path):
    assert started(tmp_path, GLIBC_TUNABLES="glibc.malloc.check=0")[1].startswith(
        "glibc.malloc.check=0 "
    )
