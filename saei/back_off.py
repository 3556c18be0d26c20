"""Back-off of the views' strength when clean accuracy suffers: a mitigation of ours (claims Q4), not of the paper."""

from saei.state import RunState


def back_off(state: RunState, reward: float) -> None:
    """Take in the mean clean validation reward of an evaluation; halve `state.strength` when it fell twice in a row.

    A new window then starts at this reward, so that no fall is counted twice.
    """
    rewards = state.validation_rewards
    rewards.append(reward)
    if len(rewards) >= 3 and rewards[-1] < rewards[-2] < rewards[-3]:
        state.strength /= 2
        state.validation_rewards = [reward]
