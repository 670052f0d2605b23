"""What the default tests leave to ``make test-all``: further cases of what they check.

A case is here if it takes seconds and its check has another case, a smaller test or a
test one floor below in the default set. A whole run or a pipeline of stages may be here
where only its parts are tested by default. Names are those of tests, or ``test[case]``.
"""

CASES = {
    "agents/test_action_spaces.py": [
        "test_all_action_spaces_run[algorithm_distillation-both_factorised]",
        "test_all_action_spaces_run[decision_transformer-both_factorised]",
        "test_all_action_spaces_run[gato-both_factorised]",
        "test_all_action_spaces_run[multi_game_decision_transformer-both_factorised]",
        "test_all_action_spaces_run[distral-both_factorised]",
        "test_all_action_spaces_run[dreamer_v2-both_factorised]",
        "test_all_action_spaces_run[impala-both_box]",
        "test_all_action_spaces_run[outside.reinforce-both_factorised]",
        "test_all_action_spaces_run[policy_distillation-both_factorised]",
        "test_all_action_spaces_run[ppo-both_factorised]",
        "test_all_action_spaces_run[progressive-both_factorised]",
        "test_illegal_choices_of_a_group_are_never_chosen[algorithm_distillation]",
        "test_illegal_choices_of_a_group_are_never_chosen[behaviour_cloning]",
        "test_illegal_choices_of_a_group_are_never_chosen[decision_transformer]",
        "test_illegal_choices_of_a_group_are_never_chosen[distral]",
        "test_illegal_choices_of_a_group_are_never_chosen[dreamer_v2]",
        "test_illegal_choices_of_a_group_are_never_chosen[gato]",
        "test_illegal_choices_of_a_group_are_never_chosen[multi_game_decision_transformer]",
        "test_illegal_choices_of_a_group_are_never_chosen[policy_distillation]",
        "test_illegal_choices_of_a_group_are_never_chosen[progressive]",
    ],
    "agents/test_algorithm_distillation.py": [
        "test_a_context_of_one_step_is_memoryless",
        "test_a_members_horizon_is_a_shorter_window_of_its_own",
        "test_acting_step_by_step_gives_what_training_reads_at_every_step[6-set]",
        "test_dropout_draws_from_the_updates_key",
        "test_one_history_is_learned_to_the_entropy_of_what_is_known[16-0.0]",
        "test_the_target_may_be_what_had_been_best_instead_of_what_was_done",
        "test_windows_with_and_without_the_steps_that_reset_teach_the_same[set]",
    ],
    "agents/test_bandit_agent.py": [
        "test_rewards_are_the_known_ones[thompson-10-100-c2-expected2]",
    ],
    "agents/test_behaviour_cloning.py": [
        "test_joint_choices_and_real_actions_are_imitated[both_factorised]",
    ],
    "agents/test_combining.py": [
        "test_a_population_is_combined_member_by_member",
        "test_the_mean_of_the_tasks_gradients_is_the_gradient[mix_and_match]",
        "test_the_mean_of_the_tasks_gradients_is_the_gradient[ppo]",
        "test_what_is_common_to_all_tasks_leaves_absent_ones_without_a_say[equal_norm]",
    ],
    "agents/test_distral_agent.py": [
        "test_the_baselines_are_not_distilled[added]",
        "test_the_distilled_policy_may_act_in_tests",
    ],
    "agents/test_dreamer_v2.py": [
        "test_a_rate_of_0_holds_its_part_alone[critic]",
        "test_a_rate_of_0_holds_its_part_alone[model]",
        "test_it_waits_until_enough_is_there",
    ],
    "agents/test_kickstarting.py": [
        "test_the_cost_is_of_the_divergence_to_the_teacher[ppo]",
        "test_the_student_becomes_the_teacher_that_nothing_changes[ppo]",
    ],
    "agents/test_mix_and_match.py": [
        "test_a_component_that_is_drawn_acts_and_learns_alone[episode]",
        "test_a_component_that_is_drawn_acts_and_learns_alone[step]",
        "test_a_component_whose_actions_are_all_illegal_has_no_say[slot]",
        "test_a_linear_core_takes_the_place_of_a_memory",
        "test_components_that_share_everything_are_one_agent[0.3]",
        "test_every_memory_advances_on_every_step",
        "test_the_central_policy_is_matched_to_the_tasks_expert",
        "test_the_log_prob_that_is_kept_is_the_mixtures[0.4]",
        "test_two_passes_in_groups_of_slots_learn_more_than_one",
    ],
    "agents/test_observation_scale.py": [
        "test_an_agent_acts_and_learns_as_if_the_environment_were_normalised[mix_",
        "test_an_agent_acts_and_learns_as_if_the_environment_were_normalised[ppo]",
    ],
    "agents/test_policy_distillation.py": [
        "test_teachers_note_down_their_last_hidden_layer_where_asked[0]",
    ],
    "agents/test_progressive.py": [
        "test_only_heads_are_trained_where_that_is_asked",
    ],
    "agents/test_q_learning.py": [
        "test_some_subsets_run_and_stay_finite[quantile]",
        "test_with_epsilon_one_every_legal_action_is_as_likely[pqn]",
    ],
    "agents/test_sequence_policy.py": [
        "test_acting_says_what_training_says_of_the_same_rows[step-",
        "test_values_become_those_of_the_data_and_are_acted_by",
    ],
    "agents/test_sharing.py": [
        "test_tasks_on_their_own_slots_learn_what_they_learn_by_choice[ppo]",
        "test_the_cost_of_distance_brings_networks_together[ppo]",
    ],
    "agents/test_tabular.py": [
        "test_dark_room_is_learned_at_the_known_pace",
        "test_key_to_door_is_learned_from_position_and_key",
    ],
    "agents/test_value_scale.py": [
        "test_a_step_is_that_of_the_rewritten_head_under_the_new_statistics[ppo]",
        "test_rewards_and_statistics_times_k_are_the_same_update[popart-0.01]",
        "test_without_a_rate_of_learning_no_value_moves[impala]",
    ],
    "benchmarks/test_distillation_arms.py": [
        "test_every_stage_of_an_arm_could_be_begun[",
    ],
    "benchmarks/test_fault_script.py": [
        "test_a_killed_run_ends_as_one_left_alone",
        "test_careless_settings_are_accepted_or_one_line",
    ],
    "benchmarks/test_multitask_arms.py": [
        "test_every_environment_of_an_arm_is_found[scales]",
    ],
    "benchmarks/test_progressive_sensitivity.py": [
        "test_a_column_that_nothing_reads_has_no_sensitivity",
    ],
    "checkpoint/test_pieces.py": [
        "test_a_damaged_piece_falls_back_to_the_step_before[a flipped bit in the first piece]",
        "test_a_damaged_piece_falls_back_to_the_step_before[a flipped bit in the manifest]",
        "test_a_damaged_piece_falls_back_to_the_step_before[a flipped bit in the record]",
        "test_a_damaged_piece_falls_back_to_the_step_before[a longer piece]",
        "test_a_damaged_piece_falls_back_to_the_step_before[a manifest with a piece too few]",
        "test_a_damaged_piece_falls_back_to_the_step_before[a shortened piece]",
        "test_a_path_out_of_the_checkpoint_is_an_error[..]",
        "test_a_path_out_of_the_checkpoint_is_an_error[a/../../{}]",
    ],
    "checkpoint/test_pieces_alone.py": [
        "test_killed_in_the_middle_of_the_pieces_the_step_before_is_sound[00000-00003.bin-1]",
    ],
    "data/test_replay.py": [
        "test_exactly_the_valid_windows_are_drawn_and_are_what_was_written[prioritised-case0]",
        "test_exactly_the_valid_windows_are_drawn_and_are_what_was_written[prioritised-case2]",
        "test_exactly_the_valid_windows_are_drawn_and_are_what_was_written[sequences-case0]",
        "test_exactly_the_valid_windows_are_drawn_and_are_what_was_written[sequences-case1]",
        "test_exactly_the_valid_windows_are_drawn_and_are_what_was_written[uniform-case0]",
        "test_exactly_the_valid_windows_are_drawn_and_are_what_was_written[uniform-case3]",
    ],
    "data/test_skewed_replay.py": [
        "test_half_of_what_is_drawn_has_a_reward_in_every_task[0.01]",
    ],
    "engine/test_host_runner.py": [
        "test_with_two_halves_the_slots_lie_where_the_fused_runner_has_them",
    ],
    "engine/test_member_replay.py": [
        "test_a_chunk_copies_no_replay[2]",
        "test_the_host_runner_has_the_memories_of_the_fused_runner",
    ],
    "engine/test_offline_runner.py": [
        "test_members_on_several_devices_learn_the_same[1]",
    ],
    "engine/test_pbt_exploit.py": [
        "test_permuting_members_permutes_the_decision[truncation]",
        "test_the_p_value_within_tasks_is_uniform_without_a_difference",
    ],
    "engine/test_population.py": [
        "test_members_one_or_two_at_a_time_are_members_together[2]",
    ],
    "engine/test_sharding.py": [
        "test_a_sharded_run_is_the_unsharded_one[8-2]",
        "test_a_state_is_made_where_it_belongs[8-2]",
        "test_members_in_turn_on_every_device_are_the_unsharded_ones[1]",
        "test_the_devices_of_a_member_share_its_minibatches[ppo]",
    ],
    "envs/test_bandits.py": [
        "test_bandits_are_dealt_to_slots_or_to_episodes[6-episode]",
    ],
    "envs/test_dark.py": [
        "test_a_random_policy_gets_the_random_score[key_to_door-",
        "test_a_random_policy_gets_the_random_score[room_hard-",
        "test_tasks_are_dealt_from_the_split_to_slots_or_to_episodes[slot]",
    ],
    "envs/test_env_contract.py": [
        "test_state_and_time_step_can_both_be_donated[gymnax/SpaceInvaders-MinAtar]",
    ],
    "envs/test_envpool_errors.py": [
        "test_a_value_that_could_end_the_process_is_refused[Catch-v0-options6-",
        "test_a_value_that_could_end_the_process_is_refused[Pong-v5-options2-",
    ],
    "envs/test_labyrinth.py": [
        "test_a_batch_is_its_slots_one_by_one[explore_object_locations_large]",
        "test_an_episode_begins_on_free_cells_that_differ[explore_object_locations_large]",
        "test_each_learner_has_a_platform_for_good_and_other_episodes_one_of_the_split",
        "test_every_map_is_connected_and_without_loops_a_tree[0.4-3-4]",
        "test_nobody_is_ever_inside_a_wall[explore_object_locations_large]",
        "test_nobody_is_ever_inside_a_wall[lasertag_three_opponents_small]",
        "test_reward_comes_from_the_named_causes_alone[lasertag_three_opponents_small]",
        "test_when_nothing_worth_taking_is_left_a_new_map_comes",
    ],
    "envs/test_labyrinth_oracle.py": [
        "test_every_puzzle_can_be_solved_and_takes_all_its_keys[2-4]",
        "test_in_one_open_room_a_line_is_what_the_oracle_walks[rooms_watermaze]",
        "test_it_finishes_the_puzzle",
        "test_it_fires_when_the_shot_will_tag_and_only_then[small]",
        "test_its_actions_are_of_the_set[small]",
        "test_the_table_holds[rooms_keys_doors_puzzle-oracle]",
    ],
    "envs/test_labyrinth_pixels.py": [
        "test_pictures_keep_shape_and_dtype_in_a_scan_and_equal_those_alone",
    ],
    "envs/test_registry.py": [
        "test_the_table_of_random_scores_is_what_a_random_policy_gets[Catch-bsuite-",
    ],
    "envs/test_wrappers.py": [
        "test_driven_from_python_it_is_the_same[envpool/CartPole-v1]",
    ],
    "experiments/test_curricula.py": [
        "test_members_are_tested_on_the_task_itself",
    ],
    "experiments/test_demonstrated.py": [
        "test_what_is_best_can_be_written_down_as_a_label_and_learned_from",
    ],
    "experiments/test_distillation_stages.py": [
        "test_a_stage_that_is_watched_can_be_evaluated",
        "test_a_student_of_two_teachers_has_a_head_of_each_ones_actions",
        "test_a_teacher_that_was_never_trained_says_nothing[",
        "test_a_watcher_of_other_actions_is_refused",
        "test_teachers_label_what_the_student_does",
        "test_the_student_agrees_more_with_its_teachers_as_it_learns",
    ],
    "experiments/test_dreamer_run.py": [
        "test_a_runs_predictions_are_drawn",
        "test_what_cannot_be_predicted_is_refused[",
    ],
    "experiments/test_dropped_replay.py": [
        "test_it_goes_on_from_empty_and_says_so",
        "test_what_needs_no_replay_reads_it[",
    ],
    "experiments/test_experiment.py": [
        "test_another_seed_is_another_run",
        "test_members_can_have_a_task_each",
        "test_pbt_can_judge_by_evaluations",
    ],
    "experiments/test_faults.py": [
        "test_a_disk_that_fills_up_leaves_the_last_checkpoint",
        "test_pbt_replaces_a_member_that_is_not_finite",
    ],
    "experiments/test_in_context_envpool.py": [
        "test_every_episode_on_envpool_is_written_down",
        "test_one_that_was_stopped_is_played_again_from_the_first_episode",
    ],
    "experiments/test_loaded.py": [
        "test_a_policy_acts_as_the_member_does_in_the_mixture[1-2]",
        "test_every_kind_of_stage_is_loaded_by_its_folder[in_context]",
    ],
    "experiments/test_mix_and_match_run.py": [
        "test_members_are_judged_by_the_last_policy_alone",
    ],
    "experiments/test_resume.py": [
        "test_a_changed_hyperparameter_is_logged_and_survives_a_kill",
        "test_a_signal_ends_a_run_that_can_be_gone_on_with[15-143]",
    ],
    "experiments/test_rl2.py": [
        "test_a_curve_of_training_counts_a_trial_as_its_episodes",
        "test_returns_are_of_the_episodes_within_a_trial",
    ],
    "experiments/test_schedules_run.py": [
        "test_a_resumed_run_has_the_values_of_the_uninterrupted_one[28]",
        "test_a_resumed_run_refuses_another_schedule",
    ],
    "experiments/test_sequence_policies_run.py": [
        "test_what_is_demonstrated_is_watched_and_then_it_plays",
    ],
    "experiments/test_stage_learners.py": [
        "test_what_a_stage_began_with_is_read_once",
    ],
    "experiments/test_stage_lists.py": [
        "test_a_stage_can_be_made_longer_and_a_later_one_changed",
    ],
    "experiments/test_stages.py": [
        "test_a_signal_ends_the_stage_and_the_run",
        "test_data_may_be_a_folder_and_a_stage_may_be_online",
    ],
    "losses/test_distral.py": [
        "test_relabelled_tasks_leave_the_distilled_policy[0.5]",
    ],
    "metrics/test_metrics.py": [
        "test_a_run_tells_wandb_what_it_is",
    ],
    "networks/test_actor_critic.py": [
        "test_a_population_equals_its_members_alone[none-1]",
        "test_a_separate_value_shares_no_parameter_with_the_policy[gru]",
        "test_a_separate_value_shares_no_parameter_with_the_policy[linear]",
        "test_a_separate_value_shares_no_parameter_with_the_policy[mingru]",
        "test_a_separate_value_shares_no_parameter_with_the_policy[none]",
        "test_last_action_reward_and_task_are_inputs_only_if_asked_for[space0]",
        "test_last_action_reward_and_task_are_inputs_only_if_asked_for[space1]",
        "test_nothing_before_a_first_step_is_seen_after_it[space1]",
        "test_nothing_before_a_first_step_is_seen_after_it[space2]",
        "test_step_by_step_is_the_whole_unroll_and_episodes_are_separate[_components-",
        "test_step_by_step_is_the_whole_unroll_and_episodes_are_separate[make-gru-",
        "test_step_by_step_is_the_whole_unroll_and_episodes_are_separate[make-lstm-False]",
    ],
    "networks/test_conv.py": [
        "test_convolution_of_a_population_in_a_scan_equals_each_member_alone[case1]",
        "test_max_pool_equals_flax_in_outputs_and_gradients[size2]",
    ],
    "networks/test_cores.py": [
        "test_core_equals_the_flax_cell_stepped_by_hand[gru]",
        "test_gates_given_how_long_to_remember_start_so[gru]",
        "test_two_unrolls_equal_one[gru]",
    ],
    "networks/test_horizon.py": [
        "test_a_horizon_of_one_step_is_memoryless_and_of_two_is_not[triple]",
        "test_a_horizon_of_the_context_changes_nothing[step-recompute]",
        "test_a_horizon_of_the_context_changes_nothing[triple-recompute]",
        "test_acting_says_what_training_says_of_the_last_steps_alone[step-learned]",
        "test_acting_says_what_training_says_of_the_last_steps_alone[step-rotary]",
    ],
    "networks/test_ngrams.py": [
        "test_a_cached_step_says_what_the_whole_history_does[1-None]",
    ],
    "networks/test_rssm.py": [
        "test_the_transposed_convolution_is_flaxs[2-",
        "test_the_transposed_convolution_is_flaxs[3-",
        "test_the_transposed_convolution_is_flaxs[5-3-",
    ],
    "networks/test_set_of_steps.py": [
        "test_cached_acting_is_recomputed_acting_and_both_are_training[1]",
        "test_padding_is_as_if_absent[recompute]",
    ],
    "networks/test_shared_trunks.py": [
        "test_a_tasks_loss_trains_its_own_heads_alone[experts]",
        "test_a_tasks_loss_trains_its_own_heads_alone[modules]",
    ],
    "networks/test_subsets.py": [
        "test_the_divergence_needs_the_subsets_own_actions_only[space1]",
    ],
    "networks/test_torsos.py": [
        "test_bfloat16_is_of_the_products_alone[lax]",
    ],
    "networks/test_transformer.py": [
        "test_a_member_of_a_population_equals_its_solo_run[step]",
        "test_a_slot_can_begin_anew_while_others_go_on[recompute]",
        "test_bfloat16_is_close_to_float32[recompute]",
        "test_cached_acting_equals_the_banded_forward_before_and_after_eviction[step-1]",
        "test_cached_acting_equals_the_banded_forward_before_and_after_eviction[step-3]",
        "test_each_dropout_acts_with_a_key_only[attention_dropout]",
        "test_gradients_are_finite_with_a_fully_padded_slot_and_reach_every_parameter[step]",
        "test_images_and_factorised_actions_are_read[step]",
        "test_padding_is_as_if_absent_wherever_it_stands[step-",
        "test_permuting_actions_in_data_and_head_permutes_the_logits[triple]",
        "test_recomputed_acting_equals_the_forward_over_the_last_steps[step-",
        "test_the_window_counts_live_steps_only[step-",
    ],
    "outside/test_run.py": [
        "test_evaluate_and_render_find_the_files",
        "test_in_a_new_process_the_run_goes_on_with_the_same_bits",
    ],
    "plots/test_plots.py": [
        "test_other_populations_are_drawn[3-False]",
    ],
    "test_compiling.py": [
        "test_processes_share_a_file_by_whole_units",
    ],
    "training/test_machine.py": [
        "test_the_file_of_the_command_can_be_started[mtrl_jax]",
    ],
    "training/test_screen.py": [
        "test_a_run_ends_well_on_full_screens",
        "test_a_run_outlives_its_terminal",
    ],
}


def is_later(file, name):
    """Returns whether a test of a file, named as below tests/, waits for test-all."""
    return any(
        name == case or (case.endswith(("[", "-", "_")) and name.startswith(case))
        for case in CASES.get(file, ())
    )
