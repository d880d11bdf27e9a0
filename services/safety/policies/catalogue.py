"""The policies of this service, by name, and whether its guards can apply them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from services.runtime.errors import nearest_names, not_found
from services.safety.catalogue import GuardCatalogue
from services.safety.errors import PolicyFileError, invalid_field
from services.safety.guard import Guard
from services.safety.policies.files import BUILTIN_FOLDER, POLICY_COLLECTION, read_policies
from services.safety.policies.hazards import matches, native_code
from services.safety.policies.policy import Policy, PolicyFieldError


class PolicyCatalogue:
    """Holds the policies.

    Args:
        policies: in no particular order; their names differ.
    """

    def __init__(self, policies: Sequence[Policy] = ()) -> None:
        self._policies = {policy.name: policy for policy in policies}

    @property
    def policies(self) -> tuple[Policy, ...]:
        """All policies, in no particular order."""
        return tuple(self._policies.values())

    def find(self, name: str, *, field: str) -> Policy:
        """Return a policy by its resource name, ``policies/{policy}``.

        Args:
            name: as the request gives it.
            field: the request field, for the error.

        Raises:
            InvalidArgumentError: the name is no resource name of a policy.
            NotFoundError: there is none of that name; suggests the nearest.
        """
        if not name.startswith(f"{POLICY_COLLECTION}/") or name == f"{POLICY_COLLECTION}/":
            raise invalid_field(
                field, f"must look like {POLICY_COLLECTION}/{{policy}}, got {name!r}", reason="NAME_INVALID"
            )
        policy = self._policies.get(name)
        if policy is None:
            raise not_found("policy", name, self._policies)
        return policy


def open_policies(folders: Sequence[Path], guards: GuardCatalogue) -> PolicyCatalogue:
    """Return the built-in policies and those of further folders; a later one replaces an earlier one of its name.

    A built-in policy that this service's guards cannot apply is listed with its problem; one that an operator has
    written must be applicable.

    Args:
        folders: with ``*.yaml`` files.
        guards: that are to apply them.

    Raises:
        PolicyFileError: a file is wrong, or speaks of guards or hazards that are not here.
    """
    policies: dict[str, Policy] = {name: policy for name, (_, policy) in read_policies(BUILTIN_FOLDER).items()}
    origins: dict[str, Path] = {}
    for folder in folders:
        for name, (file, policy) in read_policies(folder).items():
            if name in origins:
                raise PolicyFileError(
                    f"{file}: name: {origins[name]} has a policy of this name, too", metadata={"path": str(file)}
                )
            origins[name] = file
            policies[name] = policy
            _check_file(file, policy, guards)
    return PolicyCatalogue(tuple(policies.values()))


def check_applicable(policy: Policy, guards: Sequence[Guard]) -> None:
    """Make sure that guards know each of a policy's hazards between them.

    A hazard that no guard knows would never be found: its absence would look like safety.

    Raises:
        PolicyFieldError: they do not.
    """
    known = [category for guard in guards for category in guard.about.categories]
    names = ", ".join(guard.about.name for guard in guards)
    for index, hazard in enumerate(policy.hazards):
        if any(matches(hazard.code, category) for category in known):
            continue
        mapped = {category.ailuminate_code for category in known if category.ailuminate_code}
        codes = sorted({*(native_code(category) for category in known), *mapped})
        near = nearest_names(hazard.code, codes)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(codes[:20])}"
        raise PolicyFieldError(f"hazards[{index}].code", f"{hazard.code!r} is not known to {names}; {hint}")


def problem_of(policy: Policy, guards: GuardCatalogue) -> str:
    """Return why this service cannot apply a policy by its own guards; empty if it can."""
    try:
        check_applicable(policy, guards_of(policy, guards))
    except PolicyFieldError as error:
        return str(error)
    return ""


def guards_of(policy: Policy, guards: GuardCatalogue) -> tuple[Guard, ...]:
    """Return the guards that a policy names, or the default one.

    Raises:
        PolicyFieldError: there is no guard of a name.
    """
    by_name: Mapping[str, Guard] = {guard.about.name: guard for guard in guards.guards}
    for index, name in enumerate(policy.guards):
        if name not in by_name:
            near = nearest_names(name, by_name)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(by_name))}"
            raise PolicyFieldError(f"guards[{index}]", f"there is no {name!r}; {hint}")
    return tuple(by_name[name] for name in policy.guards) or (guards.choose(""),)


def _check_file(file: Path, policy: Policy, guards: GuardCatalogue) -> None:
    problem = problem_of(policy, guards)
    for guard in () if problem or not policy.guards else guards_of(policy, guards):
        for aspect in policy.aspects:
            if aspect not in guard.about.aspects:
                problem = f"aspects: {guard.about.name} does not judge a {aspect.value}"
    if problem:
        raise PolicyFileError(f"{file}: {problem}", metadata={"path": str(file)})
