"""Whole steps of the local backbone with agents of several turns."""

import argparse
import json

from benchmarks.sums import CoinWorkflow, make_sums, tune

DESCRIPTION = """\
Time the steps of a run whose agents take several turns, each a call with all that was said before.

    python -m benchmarks.turns models/smollm2-135m-instruct

The first turn asks for all numbers from 1 to 1000, the others for a sum, and the reward is a coin
toss fixed for each text. One line a step: seconds, tokens, and how far the trainer's
log-probabilities are from the engine's. Passes are recorded in the first step.
"""
QUESTION = "Write all numbers from 1 to 1000, separated by commas, and nothing else."
SHOWN = (
    *("step", "step/seconds", "rollout/seconds", "train/seconds", "rollout/tokens"),
    *("train/logprob_gap_mean", "train/logprob_gap_max"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--tasks", type=int, default=64, help="of a step")
    parser.add_argument("--group", type=int, default=8, help="attempts at a task")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--new", type=int, default=96, help="most tokens of a turn")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=32768, help="of a micro-batch")
    arguments = parser.parse_args()
    sums = make_sums(arguments.tasks * arguments.steps, seed=1, turns=arguments.turns)
    num_episodes = arguments.tasks * arguments.group
    num_behind_prompt = arguments.turns * (arguments.new + 32)
    settings = {
        "data.train_batch_size": arguments.tasks,
        "data.max_prompt_length": 128,
        "data.max_response_length": num_behind_prompt,
        "model.dtype": "bfloat16",
        "rollout.num_repeat": arguments.group,
        "rollout.max_env_worker": num_episodes,
        "rollout.max_num_seqs": num_episodes,
        "rollout.max_response_length_in_one_turn": arguments.new,
        "rollout.max_model_len": 128 + num_behind_prompt,
        "rollout.temperature": 1.0,
        "rollout.seed": 1,
        "rollout.compute_madness_checklist": [],
        "trainer_common.seed": 1,
        "trainer_common.total_training_steps": arguments.steps,
        "trainer_common.save_freq": arguments.steps + 1,
        "trainer_common.save_optimizer": "never",
        "trainer_common.max_token_len_per_gpu": arguments.max_tokens,
        "trainer_common.optim.lr": 2e-5,
        "trainer_common.optim.weight_decay": 0.0,
        "trainer_common.use_kl_loss": False,
    }
    tasks = [{**task, "main_query": QUESTION} for task in sums]
    for line in tune(arguments.model, tasks, settings, workflow=CoinWorkflow):
        if "train/seconds" in line:
            print(json.dumps({key: round(line[key], 4) for key in SHOWN}), flush=True)


if __name__ == "__main__":
    main()
