# What the images' BUILD files say, said once: each image is made of PEXes, never of sources. Pants reads this file before each
# BUILD file; it may not import.


def has_images():
    """Whether images are to be thought of: `package ::` on a machine without Docker makes everything else."""
    return not env("TUNEWRIGHT_WITHOUT_IMAGES", "")  # noqa: F821


def base_image(name, packages=()):
    """Debian from `make-rootfs`, with `packages` beyond its own."""
    if not has_images():
        return
    shell_command(  # noqa: F821
        name=f"{name}-rootfs",
        command=" ".join(["./make-rootfs", "rootfs.tar", *packages]),
        tools=["bash"],
        execution_dependencies=[":script"],
        output_files=["rootfs.tar"],
        extra_env_vars=["DEBIAN_MIRROR"],
        timeout=900,
    )
    docker_image(  # noqa: F821
        name=name,
        source="Dockerfile",
        repository=f"tunewright/{name}",
        image_tags=["bookworm"],
        dependencies=[f":{name}-rootfs"],
    )


def image_pexes(resolve, requirements, code, code_resolve=None, **program):
    """`:dependencies`, all third-party packages, and `:code`, all of ours: a line of ours changes the second only.

    `program`: `entry_point` or `script`, as a pex_binary takes it. With a `code_resolve` of its own, our code says nothing
    about the packages: `requirements` are all of them.
    """
    if not has_images():
        return
    is_apart = code_resolve is not None
    pex_binary(  # noqa: F821
        name="dependencies",
        resolve=resolve,
        dependencies=[*requirements, *([] if is_apart else code)],
        include_sources=False,
        include_tools=True,
        layout="packed",
        **({} if is_apart else program),
    )
    if code:
        pex_binary(  # noqa: F821
            name="code",
            resolve=code_resolve or resolve,
            dependencies=list(code),
            include_requirements=False,
            include_tools=True,
            layout="packed",
            **program,
        )


def tunewright_image(title, version, lock, dependencies):
    """The image that the Dockerfile beside the BUILD file makes of `dependencies`, called as its folder."""
    if not has_images():
        return
    name = str(build_file_dir()).split("/")[-1]  # noqa: F821
    docker_image(  # noqa: F821
        name=name,
        repository=f"tunewright/{name}",
        # The commit that is packaged, `<commit>-dirty` where the tree differs: it never replaces the commit's own.
        image_tags=[env("TUNEWRIGHT_COMMIT", "dev")],  # noqa: F821
        image_labels={
            "org.opencontainers.image.title": title,
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.revision": env("TUNEWRIGHT_COMMIT", "unknown"),  # noqa: F821
            "org.opencontainers.image.created": env("TUNEWRIGHT_COMMIT_DATE", ""),  # noqa: F821
            "org.opencontainers.image.source": env("TUNEWRIGHT_SOURCE", ""),  # noqa: F821
            "org.opencontainers.image.licenses": "Apache-2.0",
            "ai.tunewright.lock.digest": lock,
        },
        dependencies=["images:unpack", "3rdparty/python:locks", *dependencies],
    )
