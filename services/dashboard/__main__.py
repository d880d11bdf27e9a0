"""Run the dashboard: ``python -m services.dashboard``, also ``evalfleet dashboard``."""

from services.dashboard.command import dashboard

if __name__ == "__main__":
    dashboard(prog_name="python -m services.dashboard")
