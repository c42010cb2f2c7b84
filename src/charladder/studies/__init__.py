"""Studies: runs that differ in a few settings, compared over seeds.

`run` asks of any training function whether a change helps:

    from charladder import studies

    result = studies.run(train, arms={"none": {}, "aux": {"weight": 0.3}}, metric="valid_loss", higher_is_better=False)
    print(result)

`charladder study PLAN` does so for recipes of this project.
"""

from charladder.studies.function_study import ArmDifference, FinishedCall, Result, run

__all__ = ["ArmDifference", "FinishedCall", "Result", "run"]
