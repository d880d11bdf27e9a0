"""Run the code runner: ``python -m services.code_runner``."""

from services.code_runner.settings import CodeRunnerSettings
from services.code_runner.wiring import wire
from services.runtime.entry import run_service

if __name__ == "__main__":
    run_service("code_runner", CodeRunnerSettings, wire)
