"""*GPU & cluster*: who asks for devices, who has them, and whether they are put to use.

Belongs here: what Kubernetes' own components, kube-state-metrics and NVIDIA's dcgm-exporter say.
"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from agent_pipelines.dashboards.panels import NONE, Target, board, number, series

#: The share of its time that a claimed GPU should be at work.
UTILISATION = Target(0.7, "above")

_CLAIMS = "resourceclaim_controller_resource_claims"
_UNSCHEDULABLE = 'scheduler_pending_pods{queue="unschedulable"}'


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "gpu-cluster",
        "GPU & cluster",
        "Claims, the devices that they got, and how busy those are.",
        {
            "Now": [
                number(
                    "Pods that no node can take",
                    "The scheduler has tried them: what they claim is taken, or is nowhere.",
                    f"sum({_UNSCHEDULABLE})",
                    unit="short",
                    target=NONE,
                    span=6,
                ),
                number(
                    "Claims without a device",
                    "ResourceClaims that nothing was allocated to yet.",
                    f'sum({_CLAIMS}{{allocated="false"}})',
                    unit="short",
                    target=NONE,
                    span=6,
                ),
                number(
                    "Claims with a device",
                    "ResourceClaims that have been allocated.",
                    f'sum({_CLAIMS}{{allocated="true"}})',
                    unit="short",
                    span=6,
                ),
                number(
                    "Busy",
                    "The mean share of their time that GPUs are at work.",
                    "avg(DCGM_FI_DEV_GPU_UTIL) / 100",
                    unit="percentunit",
                    target=UTILISATION,
                    span=6,
                ),
            ],
            "Claims and pods": [
                series(
                    "Claims",
                    "ResourceClaims by whether they have a device.",
                    {"allocated: {{allocated}}": f"sum by (allocated) ({_CLAIMS})"},
                    unit="short",
                ),
                series(
                    "Pending pods",
                    "By the scheduler's queue: active ones are about to be tried, unschedulable "
                    "ones wait for something to change.",
                    {"{{queue}}": "sum by (queue) (scheduler_pending_pods)"},
                    unit="short",
                ),
                series(
                    "Attempts to place a pod",
                    "What the scheduler's attempts came to; unschedulable ones are made again when "
                    "something has changed.",
                    {"{{result}}": "sum by (result) (rate(scheduler_schedule_attempts_total[5m]))"},
                    unit="reqps",
                ),
                series(
                    "Runs' pods by phase",
                    "Pods of Dagster's runs.",
                    {
                        "{{phase}}": (
                            'sum by (phase) (kube_pod_status_phase{pod=~"dagster-run-.*"})'
                        )
                    },
                    unit="short",
                ),
            ],
            "GPUs": [
                series(
                    "Utilisation",
                    "The share of its time that each GPU is at work.",
                    {"{{Hostname}} {{gpu}} {{modelName}}": "DCGM_FI_DEV_GPU_UTIL / 100"},
                    unit="percentunit",
                    target=UTILISATION,
                ),
                series(
                    "Memory in use",
                    "The share of each GPU's memory; vLLM takes what it may at its start.",
                    {
                        "{{Hostname}} {{gpu}}": (
                            "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)"
                        )
                    },
                    unit="percentunit",
                ),
                series(
                    "Power",
                    "Of each GPU.",
                    {"{{Hostname}} {{gpu}}": "DCGM_FI_DEV_POWER_USAGE"},
                    unit="watt",
                ),
                series(
                    "GPUs that nobody uses",
                    "At work less than 5% of the last quarter of an hour.",
                    {"idle": ("count(avg_over_time(DCGM_FI_DEV_GPU_UTIL[15m]) < 5) or vector(0)")},
                    unit="short",
                ),
            ],
        },
    )
