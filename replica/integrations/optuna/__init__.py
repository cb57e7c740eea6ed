"""Optuna studies on Synod: ``pip install "synod[optuna]"``.

    import optuna
    from replica.integrations.optuna import storage

    study = optuna.create_study(storage=storage("127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003"), study_name="s",
                                load_if_exists=True)

Any number of workers in any number of processes; replicas may die meanwhile. `python -m
replica.integrations.optuna.example ENDPOINTS` runs a study with several of them.
"""

from replica.integrations.optuna.journal import SynodBackend, storage

__all__ = ["SynodBackend", "storage"]
