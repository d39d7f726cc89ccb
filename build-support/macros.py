# What every distribution's BUILD says, said once. Pants reads this file before each BUILD file; it may not import.

BOTH = ("tools", "train-cpu")

# What the image or the PEX of the job brings: a laptop that installs a variant's wheel gets none of it.
JOB_ONLY = (
    "!!3rdparty/python:train-cpu#accelerate",
    "!!3rdparty/python:train-cpu#bitsandbytes",
    "!!3rdparty/python:train-cpu#numpy",
    "!!3rdparty/python:train-cpu#peft",
    "!!3rdparty/python:train-cpu#safetensors",
    "!!3rdparty/python:train-cpu#torch",
    "!!3rdparty/python:train-cpu#transformers",
    "!!components/trainer/src:lib",
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
    return tuple(f"//3rdparty/python/*#{name}" for name in names)


def sources(resolves=("tools",), job_only_modules=()):
    """The code of one distribution: stands in its `src/BUILD`, since Pants takes a BUILD file's folder for the root.

    `job_only_modules` import torch: they are kept out of everything but the job.
    """
    kept_apart = [f"!{module}" for module in job_only_modules]
    python_sources(  # noqa: F821
        name="lib",
        sources=["**/*.py", *kept_apart],
        resolve=parametrize(*resolves) if len(resolves) > 1 else resolves[0],  # noqa: F821
    )
    if job_only_modules:
        python_sources(name="job", sources=list(job_only_modules), resolve="train-cpu")  # noqa: F821
        # The light half names it by a string only: the same file must be importable where there is no torch.
        __dependents_rules__(  # noqa: F821
            ({"type": python_sources, "name": "job"}, "!<python_sources>[/**:lib]", "*"),  # noqa: F821
            ("*", "*"),
        )


def variant_sources(variant, *more_job_modules):
    """The code of a training variant: a light half that registers it, and modules that are the job's."""
    may_import(
        "//components/contracts/**",
        "//components/trainer/src/tunewright/trainer/api.py",
        *third_party("bitsandbytes", "numpy", "peft", "pluggy", "pydantic", "safetensors", "torch", "transformers"),
    )
    job_modules = ("variant.py", *more_job_modules)
    sources(resolves=BOTH, job_only_modules=[f"tunewright/variants/{variant}/{module}" for module in job_modules])


def distribution(resolves=("tools",), has_job_module=False):
    """Metadata, wheel and papers of one distribution. Name and version come from pyproject.toml."""
    own = [f"./src:lib@resolve={resolve}" for resolve in resolves] if len(resolves) > 1 else ["./src:lib"]
    if has_job_module:
        own += ["./src:job", *JOB_ONLY]
    python_dist_info(name="dist-info", commit=env("TUNEWRIGHT_COMMIT", ""))  # noqa: F821
    python_distribution(  # noqa: F821
        name="wheel",
        dependencies=own,
        provides=python_artifact(),  # noqa: F821
        sdist=False,
        env_vars=["SOURCE_DATE_EPOCH=315532800"],
    )
    files(name="papers", sources=["*.md", "pyproject.toml"])  # noqa: F821


# What makes plugins be found: the metadata, and the code that it names.
LIGHT_PLUGINS = (
    "//3rdparty/python:tools#gcsfs",  # fsspec imports them by their names
    "//3rdparty/python:tools#s3fs",
    "//components/contracts:dist-info",
    "//components/dataset-cacher:dist-info",
    "//components/dataset-cacher/src:lib",
    "//components/env-builder:dist-info",
    "//components/env-builder/src:lib",
    "//components/launcher:dist-info",
    "//components/launcher/src:lib",
    "//plugins/cluster-beaker:dist-info",
    "//plugins/cluster-beaker/src:lib",
    "//plugins/cluster-docker:dist-info",
    "//plugins/cluster-docker/src:lib",
    "//plugins/cluster-kubernetes:dist-info",
    "//plugins/cluster-kubernetes/src:lib",
    "//plugins/cluster-local:dist-info",
    "//plugins/cluster-local/src:lib",
    "//plugins/cluster-sagemaker:dist-info",
    "//plugins/cluster-sagemaker/src:lib",
    "//plugins/cluster-slurm:dist-info",
    "//plugins/cluster-slurm/src:lib",
    "//plugins/notify-webhook:dist-info",
    "//plugins/notify-webhook/src:lib@resolve=tools",
    "//trainers/dpo:dist-info",
    "//trainers/dpo/src:lib@resolve=tools",
    "//trainers/full:dist-info",
    "//trainers/full/src:lib@resolve=tools",
    "//trainers/lora:dist-info",
    "//trainers/lora/src:lib@resolve=tools",
    "//trainers/qlora:dist-info",
    "//trainers/qlora/src:lib@resolve=tools",
    "//trainers/reward-model:dist-info",
    "//trainers/reward-model/src:lib@resolve=tools",
)
JOB_PLUGINS = (
    "//components/contracts:dist-info",
    "//components/trainer:dist-info",
    "//components/trainer/src:lib",
    "//plugins/notify-webhook:dist-info",
    "//plugins/notify-webhook/src:lib@resolve=train-cpu",
    "//trainers/dpo:dist-info",
    "//trainers/dpo/src:job",
    "//trainers/dpo/src:lib@resolve=train-cpu",
    "//trainers/full:dist-info",
    "//trainers/full/src:job",
    "//trainers/full/src:lib@resolve=train-cpu",
    "//trainers/lora:dist-info",
    "//trainers/lora/src:job",
    "//trainers/lora/src:lib@resolve=train-cpu",
    "//trainers/qlora:dist-info",
    "//trainers/qlora/src:job",
    "//trainers/qlora/src:lib@resolve=train-cpu",
    "//trainers/reward-model:dist-info",
    "//trainers/reward-model/src:job",
    "//trainers/reward-model/src:lib@resolve=train-cpu",
)

# Everything that any test of a resolve imports, for each of them: one environment instead of five with torch, and of
# seventeen without. With torch, each takes a minute of a core. What code may import is what `may_import` says.
LIGHT_TEST_PACKAGES = (
    "//3rdparty/python:tests-tools",
    "//3rdparty/python:tools",
)
JOB_TEST_PACKAGES = (
    "//3rdparty/python:mlflow-server",
    "//3rdparty/python:tests-train-cpu",
    "//3rdparty/python:train-cpu",
    "//3rdparty/python:trl",
)


def light_tests(*dependencies, **options):
    """Tests of what runs outside the job. `dependencies`: files they read, and plugins they need to be found.

    `apart`: batches of files that run beside the folder's others, by a name for each: what takes long, in parallel.
    """
    _tests("tools", (*LIGHT_TEST_PACKAGES, *dependencies), **{"timeout": 600, **options})


def job_tests(*dependencies, **options):
    """Tests of what runs inside the job, with torch."""
    _tests("train-cpu", (*JOB_TEST_PACKAGES, *dependencies), **{"timeout": 900, **options})


def _tests(resolve, dependencies, helpers=False, apart={}, together="", **options):
    others = [f"!{source}" for sources in apart.values() for source in sources]
    for name, sources in {**apart, "tests": ["test_*.py", *others]}.items():
        python_tests(  # noqa: F821
            name=name,
            sources=list(sources),
            resolve=resolve,
            dependencies=list(dependencies),
            # One process for all files of a batch: starting one, with torch, takes longer than most files.
            # `together` is the same word in folders that have few tests each.
            batch_compatibility_tag=together or f"{build_file_dir()}:{name}",  # noqa: F821
            **options,
        )
    if helpers:
        python_test_utils(name="helpers", sources=["*.py", "!test_*.py"], resolve=resolve)  # noqa: F821
