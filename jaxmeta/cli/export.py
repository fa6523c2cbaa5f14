"""`jaxmeta export`: the agent of a run as programs that run without jaxmeta."""

from __future__ import annotations

import dataclasses

from jaxmeta.cli import checks, parsing, startup
from jaxmeta.config import extras
from jaxmeta.experiment import loading

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the agent of a run as programs that act and adapt without jaxmeta: they need JAX and flatbuffers alone.

    The folder has a README with the lines of Python that use it.
    """

    run: parsing.RunFolder = None
    out: parsing.NewFolder = None
    """Folder to write; it must be empty or not exist (required)."""
    deterministic: parsing.Switch = False
    """Act by the mode of the policy instead of sampling."""
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
    """Where the programs can run, of cpu, cuda, rocm and tpu."""
    cache: parsing.Cache = True


def run(argv: list[str]) -> int:
    """Exports the last checkpoint of a run; of several seeds, the first."""
    options = parsing.parse(Options, argv, "jaxmeta export")
    folder, out = checks.run_folder(options.run, "export"), options.out
    if out is None:
        raise parsing.UsageError("export needs --out DIR, a folder to write")
    checks.empty(out)
    checks.writable("--out", out)
    unknown = [name for name in options.platforms if name not in PLATFORMS]
    if unknown or not options.platforms:
        raise parsing.UsageError(f"--platforms is {' '.join(unknown) or 'empty'}; choose of {', '.join(PLATFORMS)}")
    extras.load("flatbuffers", "export")
    config = startup.read_config(folder, options.cache)
    loading.require_deployable(config)
    stored = startup.load(folder, config, options.cache)
    from jaxmeta import deploy

    spec, plan = stored.family.env.spec, stored.meta.plan
    deploy.export(out, stored.learner, stored.first_params, spec, plan, options.deterministic, options.platforms)
    print(out)
    return 0
