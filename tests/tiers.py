"""Which tests are long by nature, and which make the loop while editing.

``pytest`` leaves the slow ones out, ``-m ''`` runs all, ``-m quick`` what takes a minute.
A case is slow where another in the default tier fails for the same mistake, or where it takes
processes, devices or compilers by the dozen. The patterns are searched in a test's id.
"""

from __future__ import annotations

import re

SLOW = (
    r"experiments/test_ablation\.py::",
    r"experiments/test_experiments\.py::test_disturbed_runs_lose_nothing",
    r"training/test_train\.py::test_(device_counts_give|checkpoint_of_one_device|sigterm_saves)",
    r"training/test_train\.py::test_balanced_sampling_goes_on",
    r"training/test_train\.py::test_stopped_anywhere_.*\[(?!5\])",
    r"training/test_train\.py::test_(evaluated_and_continued|a_workdir_in_use|other_options_train)",
    r"training/test_train\.py::test_a_(task_of_weight_zero|run_from_before_a_field)",
    r"training/test_train\.py::test_accumulation_is_exact.*\[(?!target\])",
    r"training/test_train\.py::test_(stopped_in_the_last_evaluation|damage_to_the_selected)",
    r"training/test_mixup\.py::test_a_run_mixes",
    r"training/test_faults\.py::test_(a_file_that_may_not_grow|metadata_of_the_newest)",
    r"training/test_faults\.py::test_sigterm_in_every_phase.*\[(?!testing\])",
    r"runtime/test_processes\.py::test_processes_equal_devices\[4-1\]",
    r"runtime/test_processes\.py::test_the_others_leave_when_one_is_lost\[(?!9-0\])",
    r"runtime/test_processes\.py::test_(what_one_process|stopped_and_gone_on|processes_that_are)",
    r"runtime/test_processes\.py::test_(others_that_do_not|a_mistake_that_one)",
    r"runtime/test_interrupt\.py::test_ctrl_c_is_one_line.*\[(?!export\])",
    r"ops/test_kernels\.py::test_(other_vector_widths|the_same_bits_with_any|built_once)",
    r"ops/test_kernels\.py::test_(a_damaged_library|convolution_with_what_follows.*shape[2-9])",
    r"ops/test_convolution\.py::test_strides_of_residual_networks\[shape[2-9]",
    r"ops/test_convolution\.py::test_under_jit_vmap_and_remat\[(?!2-standard\])",
    r"models/test_trunks\.py::.*\[(beside|alone)",
    r"explain/test_explain\.py::test_(commands|pointing_command|integrated_gradients_are)",
    r"export/test_onnx\.py::test_(a_resnet|every_test_image)",
    r"data/prepare/test_prepare\.py::test_(real_images|killed_preparation)",
    r"data/images/test_(pixels|quality)\.py::test_(real_images|an_exported_model|a_set_prepared)",
    r"data/audit/test_near_duplicates\.py::test_real_scans",
    r"evaluate/test_bootstrap\.py::test_intervals_cover",
    r"runs/test_shipped\.py::test_(demo_explain|the_test_split|evaluation_writes)",
    r"runs/test_belief\.py::test_(runs_without|a_checkpoint_of_another)",
    r"test_cli\.py::test_(the_console_script|a_users_own|a_command_imports)",
    r"test_metrics\.py::test_weighted_metrics_agree",
    r"test_main\.py::test_the_terminal_bar",
    r"test_full_disk\.py::.*\[(?!predict\])",
)
QUICK = (
    r"config/test_(fields|configs)\.py::",
    r"data/text/",
    r"data/images/test_(frames|listing|limits)",
    r"evaluate/test_(aggregate|calibration|curves|operating_points|referral|statistics)\.py::",
    r"html/",
    r"training/test_(optimizer|class_weights|step)\.py::",
    r"test_(files|tasks|floor_plan|pages|docstrings|init|tutorial|losses)\.py::",
)


def tier_of(name: str) -> str:
    """ "slow", "quick" or "" for the id of a test."""
    if re.search("|".join(SLOW), name):
        return "slow"
    return "quick" if re.search("|".join(QUICK), name) else ""
