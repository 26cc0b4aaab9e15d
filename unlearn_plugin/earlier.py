"""Earlier requests: what a model was already cleaned of. It must not come back when the next request is served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.evidence import private_folder
from unlearn_plugin.job import Job
from unlearn_plugin.job_file import JOB_FILE, read_job
from unlearn_plugin.manifest import ForgetManifest
from unlearn_plugin.report.report import read_report

__all__ = ["Earlier", "find_earlier"]

_FOLDER = "local-dir:"


@dataclass(frozen=True)
class Earlier:
    """The requests that were served before this one.

    Attributes:
        manifests: Each request by the absolute path of its manifest, in the order in which they were given or found.
    """

    manifests: Mapping[str, ForgetManifest]

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the manifests lie."""
        return tuple(self.manifests)

    def commitments(self, key: bytes) -> list[str]:
        """Commit to each request, as `ForgetManifest.commitment` does.

        Args:
            key: Secret of the operator.

        Returns:
            Sorted digests.
        """
        return sorted(manifest.commitment(key) for manifest in self.manifests.values())

    def explains(self, missing: Sequence[str]) -> bool:
        """Whether data that were trained on may be missing because an earlier request had them deleted.

        Args:
            missing: Ids that are not in the data any more.

        Returns:
            True if every one is named; or if a request names classes or people, of whom the ids are not known any more.
        """
        entries = [entry for manifest in self.manifests.values() for entry in manifest.entries]
        named = {entry.name for entry in entries if entry.kind == "id"}
        return any(entry.kind != "id" for entry in entries) or set(missing) <= named


def find_earlier(job: Job) -> Earlier:
    """Read the earlier requests: those a job names, and those its model was cleaned of.

    If the model lies in an output folder of ours, the job in the private folder beside it says what it was cleaned of,
    and before that.

    Args:
        job: What the user asked for.

    Returns:
        The requests, each once; usually none.

    Raises:
        UnlearnError: If one cannot be read; or if the model was cleaned of more requests than are known here.
    """
    paths = [str(Path(path).absolute()) for path in job.earlier]
    folder = _output_folder(job.model)
    if folder is not None:
        paths += _named_beside(folder)
    findings: list[str] = []
    manifests: dict[str, ForgetManifest] = {}
    for path in dict.fromkeys(paths):
        try:
            manifests[path] = ForgetManifest.read(path)
        except UnlearnError as error:
            findings += [f"Earlier request: {finding.replace('--forget', '--earlier')}" for finding in error.findings]
    if not findings and folder is not None:
        findings += _check_all_known(folder, len(manifests))
    if findings:
        raise UnlearnError.of(findings)
    return Earlier(manifests)


def _output_folder(model: str) -> Path | None:
    place = Path(model.removeprefix(_FOLDER)).expanduser()
    folder = place if place.is_dir() else place.parent
    return folder if place.exists() and (folder / "report.json").is_file() else None


def _named_beside(folder: Path) -> list[str]:
    path = private_folder(folder.absolute()) / JOB_FILE
    if not path.is_file():
        return []
    served = read_job(path)
    return [*served.earlier, served.forget]


def _check_all_known(folder: Path, known: int) -> list[str]:
    request = read_report(folder)["request"]
    served = 1 + int((request.get("earlier") or {}).get("requests", 0))
    if known >= served:
        return []
    return [
        f"The model is the outcome of {'an earlier request' if served == 1 else f'{served} earlier requests'}, whose "
        f"samples must stay out, and the manifests of {known or 'none'} are known; give each by --earlier FILE, or put "
        f"{private_folder(folder).name} beside the model."
    ]
