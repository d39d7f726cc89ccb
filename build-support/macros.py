# What every distribution's BUILD says, said once. Pants reads this file before each BUILD file; it may not import.

BOTH = ("tools", "train-cpu")

# What the image or the PEX of the job brings: a laptop that installs a variant's wheel gets none of it.
JOB_ONLY = (
    "!!3rdparty/python:train-cpu#accelerate",
    "!!3rdparty/python:train-cpu#bitsandbytes",
    "!!3rdparty/python:train-cpu#peft",
    "!!3rdparty/python:train-cpu#safetensors",
    "!!3rdparty/python:train-cpu#torch",
    "!!3rdparty/python:train-cpu#transformers",
    "!!components/trainer:lib",
)


def may_import(*addresses):
    """The sources below may import these, their own siblings, and nothing else."""
    __dependencies_rules__(  # noqa: F821
        (
            {"type": python_sources},  # noqa: F821
            "/**",  # its own
            *addresses,
            "!*",  # nothing else
        ),
        ("*", "*"),  # packaging may take anything: it is not importing
    )


def third_party(*names):
    """Addresses of third-party packages, in every resolve that has them."""
    return tuple(f"//3rdparty/python:*#{name}" for name in names)


def distribution(resolves=("tools",), job_only_module=None):
    """The targets of one distribution: sources, metadata, wheel, papers. Name and version come from pyproject.toml."""
    kept_apart = [f"!{job_only_module}"] if job_only_module else []
    python_sources(  # noqa: F821
        name="lib",
        sources=["src/**/*.py", *kept_apart],
        resolve=parametrize(*resolves) if len(resolves) > 1 else resolves[0],  # noqa: F821
    )
    own = [f":lib@resolve={resolve}" for resolve in resolves] if len(resolves) > 1 else [":lib"]
    if job_only_module:
        python_sources(name="job", sources=[job_only_module], resolve="train-cpu")  # noqa: F821
        own += [":job", *JOB_ONLY]
    python_dist_info(name="dist-info", commit=env("TUNEWRIGHT_COMMIT", ""))  # noqa: F821
    python_distribution(  # noqa: F821
        name="wheel",
        dependencies=own,
        provides=python_artifact(),  # noqa: F821
        sdist=False,
        env_vars=["SOURCE_DATE_EPOCH=315532800"],
    )
    files(name="papers", sources=["*.md", "pyproject.toml"])  # noqa: F821
