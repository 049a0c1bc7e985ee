"""`astuner.metrics`: where the newest metrics of a run can be asked for."""

from astuner.config.section import Section, UsedBy, setting


class MetricsSettings(Section):
    prometheus_port: int | None = setting(
        UsedBy.TRAINING,
        "Serve them at /metrics in the text format of Prometheus, on this port; null: do not.",
        ge=1,
        le=65535,
    )
    prometheus_host: str = setting(
        UsedBy.TRAINING,
        "Address that the port listens on; 0.0.0.0: all of the machine, as from a container.",
        min_length=1,
    )
