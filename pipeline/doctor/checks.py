"""Finds out why clicks do nothing: ``maskloop doctor``.

Label Studio shows an annotator nothing when its ML backend fails. So each known cause is checked
here and named with its remedy. The checks change nothing, in Label Studio or in the record.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from model.errors import MaskloopError
from pipeline.doctor import clicks as doctor_clicks
from pipeline.doctor import label_studio as doctor_label_studio
from pipeline.doctor import machine as doctor_machine
from pipeline.doctor.case import Answer, Case, State, problem
from pipeline.errors import RequestError
from pipeline.settings import Settings


@dataclass(frozen=True)
class Check:
    """One check. It is skipped unless the checks that it ``needs`` found no problem."""

    name: str
    look: Callable[[Case], Answer]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """The result of one check, in a sentence."""

    check: str
    state: State
    text: str


# In the order in which problems should be fixed.
CHECKS = (
    Check("settings", doctor_machine.settings),
    Check("database", doctor_machine.database, ("settings",)),
    Check("disc", doctor_machine.disc, ("settings",)),
    Check("Redis", doctor_machine.redis, ("settings",)),
    Check("workers", doctor_machine.workers, ("Redis",)),
    Check("schedule", doctor_machine.schedule, ("database",)),
    Check("mongod", doctor_machine.mongod, ("settings",)),
    Check("backend", doctor_machine.backend, ("settings",)),
    Check("Label Studio", doctor_label_studio.reachable, ("settings",)),
    Check("token", doctor_label_studio.token, ("Label Studio",)),
    Check("project", doctor_label_studio.project, ("token",)),
    Check("address", doctor_label_studio.address, ("project",)),
    Check("ML backend", doctor_label_studio.ml_backend, ("project",)),
    Check("reach", doctor_label_studio.reach, ("backend", "address", "ML backend")),
    Check("webhook", doctor_label_studio.webhook, ("project",)),
    Check("labelling config", doctor_clicks.labelling_config, ("project",)),
    Check("images", doctor_clicks.images, ("labelling config",)),
    Check("encoding", doctor_clicks.encoding, ("database", "project")),
    Check("way of a click", doctor_clicks.way_of_a_click, ("reach", "images")),
    Check("ticks", doctor_clicks.ticks, ("database", "project")),
)


def chosen(names: Collection[str] | None) -> Sequence[Check]:
    """The checks with these names and those that they need, in order; None: all checks.

    Raises:
        RequestError: a name is unknown.
    """
    if not names:
        return CHECKS
    by_name = {check.name: check for check in CHECKS}
    if unknown := sorted(set(names) - by_name.keys()):
        raise RequestError(f"There is no check {unknown[0]!r}; there are: {', '.join(by_name)}.")
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += by_name[name].needs
    return [check for check in CHECKS if check.name in wanted]


# Only each annotator's browser knows these things, so no check can see them.
IN_THE_BROWSER = (
    "Auto-Annotation, below the image, must be on, and the page clicked beside the switch: while "
    "the switch has the focus, Label Studio does not hear keys.",
    "Label Studio deselects the label after each click, and the next click needs one again: "
    'turn on "Keep label selected after creating a region" in the settings of the labelling page.',
    "A labelling page that was open during a repair must be loaded again: it still uses the "
    "backend that the project had when the page was opened.",
    "The tick beside a mask must be pressed before Submit; without it only the clicks are saved.",
)


def diagnose(
    load: Callable[[], Settings],
    project_id: int | None = None,
    checks: Sequence[Check] = CHECKS,
) -> list[Finding]:
    """Run all checks, in the order of ``checks``; never raises MaskloopError.

    Args:
        load: gives the settings.
        project_id: of Label Studio; None: the settings'.
    """
    case = Case(load, project_id)
    findings: list[Finding] = []
    try:
        for check in checks:
            answer = _look(check, case, findings)
            findings.append(Finding(check.name, answer.state, answer.text))
    finally:
        case.close()
    return findings


def _look(check: Check, case: Case, before: list[Finding]) -> Answer:
    ill = {finding.check for finding in before if finding.state in ("problem", "skipped")}
    in_the_way = [name for name in check.needs if name in ill]
    if in_the_way:
        return Answer("skipped", f"Not looked at; first mend: {', '.join(in_the_way)}.")
    try:
        return check.look(case)
    except MaskloopError as error:  # its message is a sentence that ends in a remedy
        return problem(str(error))
