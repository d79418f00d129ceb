"""A throw-away Debian guest under QEMU: systemd, pure cgroup v2, this checkout in /opt/bayplan.

    python -m tests.vm.guest [--timeout S] COMMAND…

runs COMMAND as root in the guest, prints what it prints, and exits with its status (125: the
guest itself failed). The machine's image is built once and kept in ~/.cache/bayplan-vm, under a
name made from the recipe; every run boots a copy-on-write view of it. The checkout and the Python
packages travel on a second disk: nothing is shared with the host, so nothing can leak back.

Without hardware virtualisation the guest is emulated, and ten to forty times slower than the host.
"""

from __future__ import annotations

import argparse
import compileall
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("BAYPLAN_VM_CACHE", Path.home() / ".cache/bayplan-vm"))
TOOLS = ("qemu-system-x86", "mmdebstrap", "e2fsprogs", "zstd")
PACKAGES = (
    "systemd-sysv", "udev", "dbus", "kmod", "procps", "python3", "iproute2", "nftables",
    "libnftables1", "libseccomp2", "busybox-static", "etcd-server", "runc", "ca-certificates",
)  # fmt: skip
TREE = (
    "bayplan",
    "controller",
    "agent",
    "lab",
    "tests",
    "bench",
    "examples",
    "deploy",
    "proto",
    "docs",
)
FAILED = 125
DISK_BYTES = 6 << 30
MEMORY = "3G"
END = "bayplan-guest-exit "

JOB_UNIT = """\
[Unit]
Description=The command this guest was started for
After=multi-user.target dbus.service
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/bayplan-job
StandardOutput=null
StandardError=null
Delegate=yes
TasksMax=infinity
TimeoutStartSec=infinity
[Install]
WantedBy=default.target
"""
# Everything goes out of the second serial port; its last line is the status.
JOB = f"""\
#!/bin/bash
stty -F /dev/ttyS1 raw -echo
mkdir -p /opt/bayplan
mount -o ro /dev/nvme1n1 /mnt
cp -a /mnt/. /opt/bayplan/
umount /mnt
cd /opt/bayplan
export HOME=/root LANG=C.UTF-8 PYTHONPATH=/opt/bayplan:/opt/bayplan/site PATH=/opt/bayplan/bin:$PATH
bash ./command 2>&1 </dev/null | cat >/dev/ttyS1
echo "{END}${{PIPESTATUS[0]}}" >/dev/ttyS1
sync
systemctl poweroff -ff
"""
# Logins, periodic jobs and hardware that is not there only cost time in an emulated machine; the
# services that packages bring are not this project's.
MASKED = (
    "getty.target", "apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer",
    "dpkg-db-backup.timer", "e2scrub_all.timer", "systemd-udev-trigger.service", "etcd.service",
    "systemd-timesyncd.service", "systemd-random-seed.service", "nftables.service",
)  # fmt: skip
# /opt/bayplan is a virtual environment (site(3)), as `deploy/install` makes it, but that the
# sources are the checkout's.
VENV = "home = /usr/bin\ninclude-system-site-packages = false\n"
CONSOLE_SCRIPT = """\
#!/opt/bayplan/bin/python
import sys
from {module} import main
sys.exit(main())
"""

# What the image is made of, and so what its name is made from.
SUITE, KERNEL = "bookworm", "linux-image-cloud-amd64"
RECIPE = (SUITE, KERNEL, PACKAGES, MASKED, JOB_UNIT, JOB, DISK_BYTES)


def run(command: list[str | Path], **kwargs: object) -> None:
    subprocess.run(command, check=True, **kwargs)  # type: ignore[call-overload]


def image() -> Path:
    """The folder with `vmlinuz` and `root.img`, built if this recipe has none yet."""
    recipe = hashlib.sha256(repr(RECIPE).encode()).hexdigest()[:12]
    folder = CACHE / recipe
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            run([ROOT / "deploy/install-packages", *TOOLS], stdout=sys.stderr)
            building = CACHE / f"{recipe}.new"
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            build(building)
            for old in CACHE.iterdir():  # an older recipe's image is of no use to anybody
                if old.is_dir() and old != building:
                    shutil.rmtree(old)
            building.rename(folder)
    return folder


def apt_sources() -> str:
    """This machine's own Debian sources, in one-line form: the guest is built from wherever
    this machine gets its packages."""
    entry = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    command = [
        "apt-get",
        "indextargets",
        "--format",
        entry,
        "Created-By: Packages",
        "Origin: Debian",
    ]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "\n".join(sorted(set(lines.splitlines()))) + "\n"


def build(folder: Path) -> None:
    """A root file system and the cloud kernel, which has its disk drivers built in and so boots
    without an initramfs."""
    print("building the guest's image (once)", file=sys.stderr)
    root = folder / "root"
    options = ["--mode=root", "--variant=apt", "--format=directory", "--quiet"]
    packages = f"--include={','.join((*PACKAGES, KERNEL))}"
    run(
        ["mmdebstrap", *options, packages, SUITE, root, "-"],
        input=apt_sources(),
        text=True,
        stdout=sys.stderr,
    )
    kernel = next((root / "boot").glob("vmlinuz-*"))
    shutil.copy(kernel, folder / "vmlinuz")
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost guest\n")
    for unit in MASKED:
        target = root / "etc/systemd/system" / unit
        target.unlink(missing_ok=True)
        target.symlink_to("/dev/null")
    (root / "etc/systemd/system/bayplan-job.service").write_text(JOB_UNIT)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "bayplan-job.service").symlink_to("../bayplan-job.service")
    job = root / "usr/local/sbin/bayplan-job"
    job.write_text(JOB)
    job.chmod(0o755)
    pack(root, folder / "root.img", DISK_BYTES)
    shutil.rmtree(root)


def pack(tree: Path, disk: Path, size: int) -> None:
    """A sparse ext4 disk holding `tree`."""
    with disk.open("wb") as out:
        out.truncate(size)
    run(["mke2fs", "-q", "-t", "ext4", "-m0", "-E", "lazy_itable_init=1", "-d", tree, disk])


def payload(folder: Path, command: list[str]) -> Path:
    """The second disk: the checkout, the Python packages, and what to run."""
    tree = folder / "tree"
    tree.mkdir()
    ignore = shutil.ignore_patterns(".hypothesis")
    for name in TREE:
        shutil.copytree(ROOT / name, tree / name, ignore=ignore, symlinks=True)
    for name in ("pyproject.toml", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tree / name)
    # Compiling takes an emulated machine minutes. The files carry their sources' times along.
    compileall.compile_dir(tree, ddir="/opt/bayplan", quiet=2)
    environment(tree)
    (tree / "command").write_text(shlex.join(command) + "\n")
    disk = folder / "payload.img"
    pack(tree, disk, 2 << 30)
    shutil.rmtree(tree)
    return disk


def environment(tree: Path) -> None:
    """The Python packages of this environment, and the programs, as a virtual environment."""
    leave_out = shutil.ignore_patterns(
        "ruff*", "mypy*", "uv", "uv-*", "helm_python*", "kubernetes*", "pip*", "ortools*",
        "__editable__*",
    )  # fmt: skip
    shutil.copytree(sysconfig.get_path("purelib"), tree / "site", ignore=leave_out, symlinks=True)
    (tree / "site/checkout.pth").write_text("/opt/bayplan\n")
    (tree / "pyvenv.cfg").write_text(VENV)
    packages = tree / "lib/python3.11/site-packages"
    packages.parent.mkdir(parents=True)
    packages.symlink_to("../../site")
    (tree / "bin").mkdir()
    (tree / "bin/python").symlink_to("/usr/bin/python3")
    (tree / "bin/python3").symlink_to("python")
    scripts = {"bay": "bayplan.cli.main", "bayplan-agent": "agent.__main__"}
    scripts["bayplan-controller"] = "controller.__main__"
    for name, module in scripts.items():
        path = tree / "bin" / name
        path.write_text(CONSOLE_SCRIPT.format(module=module))
        path.chmod(0o755)


def accelerator() -> list[str]:
    """KVM where it can run a stock kernel, else emulation of a plain x86-64-v2 processor."""
    flags = Path("/proc/cpuinfo").read_text().split()
    if ("vmx" in flags or "svm" in flags) and os.access("/dev/kvm", os.W_OK):
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "Nehalem,+rdrand"]


def boot(folder: Path, disk: Path, work: Path, timeout_s: float) -> int:
    """Run the guest; copy its output as it comes. Its command's status, or FAILED."""
    console, output = work / "console", work / "output"
    output.touch()
    command: list[str | Path] = ["qemu-system-x86_64", *accelerator()]
    command += ["-M", "q35", "-smp", "2", "-m", MEMORY, "-kernel", folder / "vmlinuz"]
    kernel = "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1 mitigations=off"
    command += ["-append", f"{kernel} systemd.unified_cgroup_hierarchy=1"]
    for name, file, option in (
        ("root", folder / "root.img", "snapshot=on"),
        ("payload", disk, "readonly=on"),
    ):
        command += ["-drive", f"if=none,id={name},file={file},format=raw,{option}"]
        command += ["-device", f"nvme,serial={name},drive={name}"]
    command += ["-serial", f"file:{console}", "-serial", f"file:{output}"]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot"]
    deadline = time.monotonic() + timeout_s
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as guest, output.open() as lines:
        status, pending = FAILED, ""
        try:
            while True:
                over = guest.poll() is not None
                pending += lines.read()
                *whole, pending = pending.split("\n")
                for line in whole:
                    if line.startswith(END):
                        status = int(line.removeprefix(END))
                    else:
                        print(line, flush=True)
                if over:
                    break
                if time.monotonic() > deadline:
                    print(f"the guest has not ended after {timeout_s:.0f} s", file=sys.stderr)
                    guest.kill()
                    break
                time.sleep(0.2)
        finally:
            guest.kill()
    if status == FAILED:
        print("\n".join(console.read_text(errors="replace").splitlines()[-30:]), file=sys.stderr)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--timeout", type=float, default=1800.0, metavar="S")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if os.geteuid() != 0:
        print("the guest's image is built with mmdebstrap, which needs root", file=sys.stderr)
        return FAILED
    folder = image()
    with tempfile.TemporaryDirectory(prefix="bayplan-vm-") as name:
        work = Path(name)
        disk = payload(work, args.command)
        return boot(folder, disk, work, args.timeout)


if __name__ == "__main__":
    sys.exit(main())
