"""A small committed checkout with an image of its own, which Docker really builds in a second or two.

`./pants` stands in for Pants: it makes the directories that `pants package` makes of PEXes. They unpack themselves as
a PEX does, so that the Dockerfile and `images/unpack.py` are like the real ones. git, Docker and Python are real.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from servers.docker_engine import need_base_image

from components.env_builder.checkout import Checkout
from tunewright.contracts.environments import CodeOrigin, EnvironmentRequest
from tunewright.contracts.experiment import EnvironmentSpec
from tunewright.contracts.files import sha256_of_file
from tunewright.env_builder.git import current_branch, head_commit
from tunewright.env_builder.images.build import ensure_image
from tunewright.env_builder.images.options import ImageOptions
from tunewright.env_builder.images.record import BuiltImage, read_image
from tunewright.env_builder.inputs import changes
from tunewright.env_builder.record import EnvironmentPlace, ProvidedEnvironment

TOKEN_LABEL = "test.tunewright.token"
SITE = "3rdparty/packages/lib/python3.11/site-packages"
LOCK = "3rdparty/tiny.lock"
PROGRAM = "components/tiny/src/tiny_program.py"

PANTS = """#!{python}
import json, pathlib, shutil, sys, time
seen = pathlib.Path("{seen}")
with open(seen / "calls", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
number = len((seen / "calls").read_text().splitlines())
while (seen / f"hold-{{number}}").exists():
    time.sleep(0.01)
distdir = pathlib.Path(next(one.split("=", 1)[1] for one in sys.argv if one.startswith("--pants-distdir=")))
for address in sys.argv[sys.argv.index("package") + 1 :]:
    folder, name = address.split(":")
    made = distdir / folder.replace("/", ".")
    made.mkdir(parents=True, exist_ok=True)
    if folder.endswith("/base"):
        document = dict(version=1, image_id="", registries=[dict(tags=[dict(tag="bookworm", name="{base}")])])
        (made / f"{{name}}.docker-info.json").write_text(json.dumps(document))
        continue
    pex = made / f"{{name}}.pex"
    shutil.copytree("3rdparty/packages" if name == "dependencies" else "components/tiny/app", pex / "content")
    if name == "code":
        shutil.copytree("components/tiny/src", pex / "content/lib/python3.11/site-packages")
    shutil.copy("build-support/pex_main.py", pex / "__main__.py")
"""

PEX_MAIN = """# What a PEX's own tools do: `PEX_TOOLS=1 python PEX venv --scope=SCOPE PLACE`.
import os, pathlib, shutil, sys
assert os.environ["PEX_TOOLS"] == "1" and sys.argv[1] == "venv", sys.argv
content, place = pathlib.Path(__file__).parent / "content", pathlib.Path(sys.argv[3])
os.makedirs(os.environ["PEX_ROOT"])
shutil.copytree(content, place, symlinks=True)
if sys.argv[2] == "--scope=deps":
    (place / "pyvenv.cfg").write_text("home = /usr/bin\\n")
    (place / "bin").mkdir()
    (place / "bin/python").symlink_to("/usr/bin/python3.11")
"""

DOCKERFILE = """ARG BASE_IMAGE=images/base:base

FROM ${{BASE_IMAGE}} AS system
ENV PATH=/app/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp USER=tunewright LANG=C.UTF-8 PYTHONHASHSEED=0

FROM system AS packages
COPY 3rdparty/tiny.lock /lock/
COPY images/unpack.py images.tiny/dependencies.pex /build/
RUN ["python3.11", "/build/unpack.py", "/build", "deps", "heavy-package"]

FROM system AS heavy-dependencies
COPY --from=packages /heavy/ /

FROM heavy-dependencies AS light-dependencies
COPY --from=packages /light/ /

FROM system AS code
COPY images/unpack.py images.tiny/code.pex /build/
RUN ["python3.11", "/build/unpack.py", "/build", "srcs"]

FROM light-dependencies
LABEL {label}={token}
COPY --from=code /code/ /
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["tini", "--", "/app/pex"]
CMD ["--help"]
"""

APP_PEX = """#!/app/bin/python
import sys
import heavy_package, light_package, tiny_program
sys.exit(tiny_program.main(sys.argv[1:]))
"""

CODE = """def main(arguments):
    # What comes after the init process and the image's own program.
    print("tiny", arguments)
    return 0
"""


@dataclass(frozen=True)
class ImageCheckout(Checkout):
    """A checkout that no other test shares a key, a commit or a name with."""

    token: str

    @property
    def prefix(self) -> str:
        """What its images are called, before the branch."""
        return f"tw-test-{self.token}/tiny"

    @property
    def head(self) -> str:
        """The commit that is checked out."""
        return head_commit(self.root)

    def elsewhere(self, home: Path) -> ImageCheckout:
        """The same checkout with another home."""
        return replace(self, home=home)

    def ensure(self, target: str = "images/tiny", *, dirty: bool = False, **options: Any) -> ProvidedEnvironment:
        """Build, or find, the image of the commit that is checked out."""
        chosen = ImageOptions(**{"prefix": self.prefix, **options})
        return ensure_image(self.image_request(target, dirty=dirty), chosen)

    def image_request(self, target: str = "images/tiny", *, dirty: bool = False) -> EnvironmentRequest:
        """What the launcher would ask for."""
        return EnvironmentRequest(
            spec=EnvironmentSpec(kind="image", image=target),
            project_root=str(self.root),
            home=str(self.home),
            code=CodeOrigin(commit=self.head, branch=current_branch(self.root), dirty=dirty),
        )

    def record(self, key: str) -> BuiltImage:
        """What the home has recorded."""
        found = read_image(self.place(key))
        assert found is not None, f"no record of {key}"
        return found

    def place(self, key: str) -> EnvironmentPlace:
        """Where that lies."""
        return EnvironmentPlace(self.home, key)

    def recorded_keys(self) -> list[str]:
        """Every environment of the home that has a record."""
        return sorted(path.parent.name for path in self.home.glob("environments/*/environment.json"))

    def pants_calls(self) -> list[list[str]]:
        """The targets that `./pants` was asked for, call by call."""
        path = self.seen / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [arguments[arguments.index("package") + 1 :] for arguments in map(json.loads, lines)]

    def hold_next(self) -> Path:
        """Make the next call of `./pants` wait until the file that this gives is removed."""
        hold = self.seen / f"hold-{len(self.pants_calls()) + 1}"
        hold.touch()
        return hold

    def edit_program(self, text: str) -> None:
        """Commit another line of the program."""
        self.commit(PROGRAM, CODE.replace('"tiny"', repr(text)))

    @property
    def changed(self) -> dict[str, str]:
        """What the tree has beyond its commit."""
        return changes(self.root, (".",))


def make_image_checkout(directory: Path, base: str) -> ImageCheckout:
    """A committed checkout with `images/tiny`, whose `./pants` says that it has made the image `base`."""
    token = uuid.uuid4().hex[:12]
    directory.mkdir(parents=True, exist_ok=True)
    made = ImageCheckout(directory / "project", directory / "home", directory / "seen", token)
    made.root.mkdir()
    made.seen.mkdir()
    made.git("init", "--quiet", "--initial-branch=main")
    made.write(".gitignore", "/dist/\n/.tunewright/\n")
    made.write("pants.toml", f'[GLOBAL]\npants_version = "2.17.1"\n[python.resolves]\ntrain-cpu = "{LOCK}"\n')
    made.write("pants", PANTS.format(python=sys.executable, seen=made.seen, base=base))
    (made.root / "pants").chmod(0o755)
    made.write("build-support/pex_main.py", PEX_MAIN)
    made.write(LOCK, f"heavy-package==1.0 --hash=sha256:{'0' * 64}\nlight-package==2.0 --hash=sha256:{'1' * 64}\n")
    write_package(made, "heavy_package", "1.0")
    write_package(made, "light_package", "2.0")
    made.write("components/tiny/pyproject.toml", '[project]\nname = "tiny"\nversion = "4.5.6"\n')
    made.write("components/tiny/app/pex", APP_PEX)
    (made.root / "components/tiny/app/pex").chmod(0o755)
    made.write("images/tiny/Dockerfile", DOCKERFILE.format(label=TOKEN_LABEL, token=token))
    made.write("images/base/Dockerfile", "FROM scratch\n")
    shutil.copy("images/unpack.py", made.root / "images/unpack.py")
    made.commit(PROGRAM, CODE)
    return made


def write_package(checkout: Checkout, name: str, version: str, text: str = "") -> None:
    """An installed distribution with one module."""
    information = f"{name}-{version}.dist-info"
    checkout.write(f"{SITE}/{name}/__init__.py", text or f"NAME, VERSION = {name!r}, {version!r}\n")
    metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    checkout.write(f"{SITE}/{information}/METADATA", metadata)
    files = (f"{name}/__init__.py", f"{information}/METADATA", f"{information}/RECORD")
    checkout.write(f"{SITE}/{information}/RECORD", "".join(f"{file},,\n" for file in files))


@contextlib.contextmanager
def image_checkout(directory: Path, base: str | None = None) -> Iterator[ImageCheckout]:
    """A checkout; whatever Docker has of it is gone afterwards."""
    made = make_image_checkout(directory, base or need_base_image())
    try:
        yield made
    finally:
        for image_id in images_of(made):
            with contextlib.suppress(Exception), docker_client() as client:
                client.api.remove_image(image_id, force=True)


def images_of(checkout: ImageCheckout, *, named_only: bool = False) -> list[str]:
    """The ids of the images that Docker has of this checkout."""
    filters: dict[str, Any] = {"label": f"{TOKEN_LABEL}={checkout.token}"}
    if named_only:
        filters["dangling"] = False
    with docker_client() as client:
        return sorted(str(one["Id"]) for one in client.api.images(filters=filters))


@contextlib.contextmanager
def docker_client(host: str | None = None) -> Iterator[Any]:
    """docker-py, for what tests look at themselves."""
    import docker

    client = docker.DockerClient(host, timeout=50) if host else docker.from_env(timeout=50)
    try:
        yield client
    finally:
        client.close()


def lock_sha256(checkout: Checkout) -> str:
    """SHA-256 of the lock."""
    return sha256_of_file(checkout.root / LOCK)
