"""What the default tests leave to ``make test-all``: further cases of what they check.

A case is here if it takes seconds and its check has another case, a smaller test or a
test one floor below in the default set. Names are those of tests, or ``test[case]``.
"""

CASES = {
    "agents/test_action_spaces.py": [
        "test_all_action_spaces_run[algorithm_distillation-both_factorised]",
        "test_all_action_spaces_run[decision_transformer-both_factorised]",
        "test_illegal_choices_of_a_group_are_never_chosen[behaviour_cloning]",
        "test_illegal_choices_of_a_group_are_never_chosen[decision_transformer]",
        "test_illegal_choices_of_a_group_are_never_chosen[distral]",
        "test_illegal_choices_of_a_group_are_never_chosen[dreamer_v2]",
        "test_illegal_choices_of_a_group_are_never_chosen[progressive]",
    ],
    "agents/test_algorithm_distillation.py": [
        "test_a_context_of_one_step_is_memoryless",
        "test_a_members_horizon_is_a_shorter_window_of_its_own",
        "test_acting_step_by_step_gives_what_training_reads_at_every_step[6-set]",
        "test_dropout_draws_from_the_updates_key",
        "test_one_history_is_learned_to_the_entropy_of_what_is_known[16-0.0]",
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
    ],
    "agents/test_distral_agent.py": [
        "test_the_baselines_are_not_distilled[added]",
        "test_the_distilled_policy_may_act_in_tests",
    ],
    "agents/test_dreamer_v2.py": ["test_it_waits_until_enough_is_there"],
    "agents/test_kickstarting.py": [
        "test_the_student_becomes_the_teacher_that_nothing_changes[ppo]",
    ],
    "agents/test_learning.py": [
        "test_an_agent_learns_five_probes_as_one_mixture[impala-",
    ],
    "agents/test_mix_and_match.py": [
        "test_a_component_that_is_drawn_acts_and_learns_alone[episode]",
        "test_a_component_whose_actions_are_all_illegal_has_no_say[slot]",
        "test_a_linear_core_takes_the_place_of_a_memory",
        "test_components_that_share_everything_are_one_agent[0.3]",
        "test_every_memory_advances_on_every_step",
        "test_the_log_prob_that_is_kept_is_the_mixtures[0.4]",
        "test_two_passes_in_groups_of_slots_learn_more_than_one",
    ],
    "agents/test_observation_scale.py": [
        "test_an_agent_acts_and_learns_as_if_the_environment_were_normalised[mix_",
        "test_an_agent_acts_and_learns_as_if_the_environment_were_normalised[ppo]",
    ],
    "agents/test_progressive.py": [
        "test_only_heads_are_trained_where_that_is_asked",
        "test_the_fisher_sensitivity_is_its_closed_form",
    ],
    "agents/test_q_learning.py": ["test_some_subsets_run_and_stay_finite[quantile]"],
    "agents/test_sharing.py": [
        "test_tasks_on_their_own_slots_learn_what_they_learn_by_choice[ppo]",
        "test_the_cost_of_distance_brings_networks_together[ppo]",
    ],
    "agents/test_tabular.py": [
        "test_dark_room_is_learned_at_the_known_pace",
        "test_key_to_door_is_learned_from_position_and_key",
    ],
    "engine/test_host_runner.py": [
        "test_with_two_halves_the_slots_lie_where_the_fused_runner_has_them",
    ],
    "engine/test_pbt_exploit.py": [
        "test_the_p_value_within_tasks_is_uniform_without_a_difference",
    ],
    "engine/test_population.py": [
        "test_members_one_or_two_at_a_time_are_members_together[2]",
    ],
    "engine/test_sharding.py": [
        "test_a_sharded_run_is_the_unsharded_one[8-2]",
        "test_the_devices_of_a_member_share_its_minibatches[ppo]",
    ],
    "envs/test_dark.py": ["test_a_random_policy_gets_the_random_score[key_to_door-"],
    "envs/test_env_contract.py": [
        "test_state_and_time_step_can_both_be_donated[gymnax/SpaceInvaders-MinAtar]",
    ],
    "envs/test_labyrinth.py": [
        "test_a_batch_is_its_slots_one_by_one[explore_object_locations_large]",
        "test_each_learner_has_a_platform_for_good_and_other_episodes_one_of_the_split",
        "test_when_nothing_worth_taking_is_left_a_new_map_comes",
        "test_nobody_is_ever_inside_a_wall[lasertag_three_opponents_small]",
        "test_reward_comes_from_the_named_causes_alone[lasertag_three_opponents_small]",
    ],
    "envs/test_labyrinth_oracle.py": [
        "test_it_finishes_the_puzzle",
        "test_it_fires_when_the_shot_will_tag_and_only_then[small]",
        "test_the_table_holds[rooms_keys_doors_puzzle-oracle]",
    ],
    "envs/test_wrappers.py": [
        "test_driven_from_python_it_is_the_same[envpool/CartPole-v1]",
    ],
    "experiments/test_demonstrated.py": [
        "test_what_is_best_can_be_written_down_as_a_label_and_learned_from",
    ],
    "experiments/test_dropped_replay.py": ["test_what_needs_no_replay_reads_it"],
    "experiments/test_in_context_envpool.py": [
        "test_one_that_was_stopped_is_played_again_from_the_first_episode",
    ],
    "experiments/test_loaded.py": [
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
    ],
    "experiments/test_schedules_run.py": [
        "test_a_resumed_run_refuses_another_schedule"
    ],
    "experiments/test_stage_learners.py": ["test_what_a_stage_began_with_is_read_once"],
    "experiments/test_stages.py": [
        "test_a_signal_ends_the_stage_and_the_run",
        "test_data_may_be_a_folder_and_a_stage_may_be_online",
    ],
    "losses/test_distral.py": ["test_relabelled_tasks_leave_the_distilled_policy[0.5]"],
    "networks/test_actor_critic.py": [
        "test_a_population_equals_its_members_alone[none-1]",
        "test_a_separate_value_shares_no_parameter_with_the_policy[gru]",
        "test_a_separate_value_shares_no_parameter_with_the_policy[mingru]",
        "test_last_action_reward_and_task_are_inputs_only_if_asked_for[space0]",
        "test_nothing_before_a_first_step_is_seen_after_it[space1]",
        "test_step_by_step_is_the_whole_unroll_and_episodes_are_separate[_components-",
        "test_step_by_step_is_the_whole_unroll_and_episodes_are_separate[make-gru-",
    ],
    "networks/test_conv.py": [
        "test_max_pool_equals_flax_in_outputs_and_gradients[size2]",
    ],
    "networks/test_horizon.py": [
        "test_a_horizon_of_the_context_changes_nothing[triple-recompute]",
        "test_a_horizon_of_the_context_changes_nothing[step-recompute]",
        "test_acting_says_what_training_says_of_the_last_steps_alone[step-learned]",
    ],
    "networks/test_set_of_steps.py": [
        "test_cached_acting_is_recomputed_acting_and_both_are_training[1]",
        "test_padding_is_as_if_absent[recompute]",
    ],
    "networks/test_subsets.py": [
        "test_the_divergence_needs_the_subsets_own_actions_only[space1]",
    ],
    "networks/test_transformer.py": [
        "test_a_member_of_a_population_equals_its_solo_run[step]",
        "test_a_slot_can_begin_anew_while_others_go_on[recompute]",
        "test_cached_acting_equals_the_banded_forward_before_and_after_eviction[step-3]",
        "test_images_and_factorised_actions_are_read[step]",
        "test_padding_is_as_if_absent_wherever_it_stands[step-",
        "test_recomputed_acting_equals_the_forward_over_the_last_steps[step-",
        "test_the_window_counts_live_steps_only[step-",
    ],
    "outside/test_run.py": ["test_in_a_new_process_the_run_goes_on_with_the_same_bits"],
}


def is_later(file, name):
    """Returns whether a test of a file, named as below tests/, waits for test-all."""
    return any(
        name == case or (case.endswith(("[", "-", "_")) and name.startswith(case))
        for case in CASES.get(file, ())
    )
