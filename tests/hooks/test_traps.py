"""The known traps of recording a training, and the tests that walk into each of them.

The table is checked: a test that is renamed or removed is missed here. What no other file fits is tested below.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from unlearn_hooks import TrainingRecord, record
from unlearn_hooks.features import recorded_features
from unlearn_hooks.samples import recorded_samples
from unlearn_hooks.schedule import recorded_schedule

N, CLASSES = 24, 3

TRAPS = """
the recorder changes the training
    test_recorder.weights_and_random_numbers_are_the_same_with_the_recorder_on_and_off
    test_compiled.a_compiled_training_ends_bit_by_bit_where_it_ends_without_the_recorder
    frameworks/test_plain_loop.weights_and_average_are_the_same_with_and_without_the_recorder
gradients looked at before the step
    test_recorder.gradient_and_weights_of_a_closure_are_those_applied
    test_capture.before_a_step_the_weights_are_old_and_after_it_they_are_new_and_the_gradient_is_the_applied_one
    frameworks/test_lightning.accumulation_and_clipping_are_recorded_as_they_were_applied
steps that a scaler skipped are counted
    test_recorder.a_step_that_a_scaler_skipped_is_marked_and_its_batch_is_in_no_other
    test_compiled.a_step_that_the_scaler_left_out_is_recorded_as_left_out
    test_updates.a_skipped_step_is_never_recorded
a loader that looks ahead, off by one
    test_feed.each_batch_meets_its_own_tag_even_if_the_loader_is_ahead
    test_followed_loader.every_batch_has_its_rows_however_far_the_framework_reads_ahead
    frameworks/test_accelerate.a_prepared_loop_with_accumulation_is_recorded_exactly
    frameworks/test_transformers.accumulation_reads_ahead_and_is_recorded_as_it_was_trained_and_clipped
workers out of order, early break, persistent or spawned workers
    test_loader_tags.rows_are_exact_with_workers
    test_loader_tags.rows_are_exact_after_an_early_break_with_persistent_workers_that_read_ahead
    test_loader_tags.spawned_workers_tag_too
recording that begins late
    test_loader_tags.a_loader_whose_workers_started_before_gives_batches_and_no_rows
    test_recorder.a_record_that_began_late_says_so
    frameworks/test_transformers.a_callback_that_joins_late_is_told_where_it_belongs
batches skipped, dispatched, or changed by an unknown wrapper
    test_loader_tags.a_wrapper_that_skips_batches_is_caught_by_the_labels_and_gives_no_rows
    frameworks/test_accelerate.where_one_process_reads_for_all_everything_but_the_rows_is_recorded_and_it_says_so
    frameworks/test_accelerate.a_loop_that_died_in_an_epoch_goes_on_with_skipped_batches
indices that are tuples, batches made inside the data set, samples left out
    test_loader_tags.rows_are_exact_without_workers
    test_loader_tags.a_stream_gives_batches_and_no_rows
    test_feed.another_length_closes_the_feed
mixup after the loader
    test_feed.soft_labels_are_not_compared
    frameworks/test_plain_loop.mixing_after_the_loader_keeps_the_rows_and_says_that_losses_are_left_out
hooks in averaged copies, teachers and evaluation
    test_recorder.evaluation_and_averaged_copies_are_not_counted
    test_capture.a_copy_of_the_model_is_not_listened_to
    frameworks/test_lightning.an_average_beside_the_net_is_asked_about_and_not_counted
activation checkpointing counts features twice
    test_traps.features_behind_activation_checkpointing_count_once
hooks put on after torch.compile
    test_compiled.of_a_model_that_ran_compiled_before_all_but_the_features_is_recorded_and_it_says_so
Python state in traced hooks compiles anew every step
    test_compiled.a_compiled_training_ends_bit_by_bit_where_it_ends_without_the_recorder
    test_capture.a_compiled_model_computes_the_same_with_the_hooks_on_and_compiles_once
gradients that share memory, or are cleared in place
    test_copies.tensors_of_any_layout_are_copied
    test_updates.a_pair_is_the_weights_before_the_step_and_the_gradient_that_was_applied
statistics of several processes
    test_features.processes_that_saw_different_samples_are_pooled
    frameworks/test_accelerate.two_processes_record_their_own_rows_and_keep_padded_duplicates
processes that wait for each other while recording
    test_updates.processes_write_the_weights_once_and_all_their_rows
    test_updates.sharded_parameters_are_not_recorded_and_the_journal_says_so
accumulation whose last group is shorter
    test_recorder.accumulation_with_a_short_last_group_keeps_micro_batches_apart
cancellation, TF32 and autocast
    test_features.the_covariance_is_right_when_the_mean_is_much_larger_than_the_spread
    test_features.the_settings_of_matrix_products_are_those_of_the_user_afterwards
    test_collector.inside_the_autocast_of_a_loop_collectors_compute_as_they_are_written
kill -9
    test_training_record.a_record_is_readable_after_kill_9_at_any_moment
    test_recorder.a_training_killed_at_any_moment_leaves_a_readable_record
resuming
    test_collector.a_run_that_is_resumed_leaves_the_record_of_a_straight_one
    test_recorder.a_resumed_run_counts_nothing_twice_and_loses_nothing
    test_recorder.a_training_that_goes_on_without_telling_the_record_loses_nothing
    test_recorder.a_shorter_run_from_scratch_leaves_nothing_of_the_one_before
a slow disk
    test_recording_thread.a_third_waiting_shard_of_a_kind_is_skipped_without_waiting_and_the_journal_says_so
a full or unwritable disk
    test_recorder.a_full_disk_ends_the_recording_with_one_warning_and_not_the_training
    test_recorder.a_folder_that_cannot_be_written_is_refused_before_training
several optimizers, optimizers in optimizers, parameters without gradient
    test_traps.a_step_of_an_optimizer_in_an_optimizer_counts_once
    frameworks/test_lightning.of_several_optimizers_the_one_that_trains_the_named_part_is_recorded
    test_updates.a_parameter_without_gradient_is_absent_and_not_zero
padded and repeated samples
    test_loader_tags.rows_are_exact_without_workers
    frameworks/test_accelerate.two_processes_record_their_own_rows_and_keep_padded_duplicates
parts of data sets
    test_ids.rows_are_resolved_to_the_root_through_any_depth
    test_ids.a_hugging_face_data_set_is_named_by_rows_of_the_table_behind_select_and_shuffle
several samples in one row
    test_feed.another_length_closes_the_feed
uneven batches of several processes
    test_schedule.the_batches_of_all_processes_make_the_step
an optimizer made anew
    test_recorder.an_optimizer_that_is_made_anew_is_reported_lost
workers that are spawned need what can be pickled
    test_loader_tags.spawned_workers_tag_too
    test_loader_tags.the_users_own_worker_initialisation_runs
names private to torch that change
    test_loader_tags.the_self_test_notices_renamed_private_names
    test_loader_tags.a_loader_class_with_iterators_of_its_own_is_wrapped
"""
TESTS = sorted({line.strip() for line in TRAPS.splitlines() if line.startswith("    ")})


def test_every_trap_has_a_test() -> None:
    blocks = re.split(r"\n(?=\S)", TRAPS.strip())
    assert len(blocks) == 30
    assert all("\n    " in block for block in blocks)


@pytest.mark.parametrize("name", TESTS)
def test_the_tests_of_the_table_exist(name: str) -> None:
    module, _, function = name.rpartition(".")
    assert f"\ndef test_{function}(" in (Path(__file__).parent / f"{module}.py").read_text()


class Net(nn.Module):
    """Keeps no activations of its body, or, if all is told, of its head either."""

    def __init__(self, *, all: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.all = nn.Linear(6, 5), nn.Linear(5, CLASSES), all

    def _forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).relu())
        return logits

    def forward(self, images: Tensor) -> Tensor:
        if self.all:
            return checkpoint(self._forward, images, use_reentrant=False)  # type: ignore[no-any-return]
        logits: Tensor = self.head(checkpoint(self.body, images, use_reentrant=False).relu())
        return logits


def train(folder: Path, model: nn.Module, optimizer: Any) -> TrainingRecord:
    images = torch.randn(N, 6, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(images, torch.arange(N) % CLASSES), 8, shuffle=True)
    with record(folder, model, optimizer) as rec:
        for _ in range(3):
            for inputs, labels in rec.batches(loader):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
    assert rec.status().unknown == {}
    return TrainingRecord.open(folder)


@pytest.mark.parametrize("all", [False, True])
def test_features_behind_activation_checkpointing_count_once(tmp_path: Path, all: bool) -> None:
    model = Net(all=all)
    found = train(tmp_path, model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert recorded_features(found).n == 3 * N
    assert [epoch.rows.tolist() for epoch in recorded_samples(found)] == [list(range(N))] * 3


def test_a_step_of_an_optimizer_in_an_optimizer_counts_once(tmp_path: Path) -> None:
    model = Net(all=False)
    found = train(tmp_path, model, timm.optim.Lookahead(torch.optim.AdamW(model.parameters(), lr=1e-2), k=2))
    schedule = recorded_schedule(found)
    assert schedule.steps == 9
    for epoch in range(3):
        rows = [schedule.rows(step) for step in range(3 * epoch, 3 * epoch + 3)]
        assert sorted(torch.cat([part for part in rows if part is not None]).tolist()) == list(range(N))
