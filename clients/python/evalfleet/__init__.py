"""Python client of EvalFleet.

    from evalfleet.fleet import Fleet

    with Fleet.connect() as fleet:
        model = fleet.models.add("out/step-1200")
        run = fleet.runs.start(model=model.name, suite="demo")
        for snapshot in fleet.runs.watch(run.name):
            print(snapshot.run.state)

The generated stubs live in the ``v1`` folders below. This module imports nothing, because the services need the
stubs alone.
"""
