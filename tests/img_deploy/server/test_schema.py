"""The server against its own OpenAPI: requests of every kind that it allows, and of those that it does not."""

import pytest
from hypothesis import given, settings

pytest.importorskip("schemathesis", reason="schemathesis is not installed")
import schemathesis
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

OPERATIONS = 8


def test_the_server_keeps_to_its_openapi(features, server_process):
    """A client made from it would send what is refused, or meet statuses, types and bodies that nobody told it of."""
    # In a process of its own: pytest rewrites what both would import, and Python 3.11 parses in one thread at a time.
    with server_process("--features", features.folder, "--clip-seconds", "2") as server:
        described = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        operations = [one.ok() for one in described.get_all_operations()]
        assert len(operations) == OPERATIONS
        for operation in operations:
            limited = operation.body or operation.query  # what else there is takes any text
            for mode in GenerationMode if limited else (GenerationMode.POSITIVE,):
                case = operation.as_strategy(generation_mode=mode)
                settings(max_examples=10 if limited else 3)(given(case)(keeps_to_it))()


def keeps_to_it(case):
    # Whether words are known, and which videos there are, no schema can say.
    case.call_and_validate(excluded_checks=[positive_data_acceptance])
