"""Piano rolls: 88 keys a frame (JSB chorales, Nottingham).

Set `--config.data.path` to the `.mat` file with `traindata`, `validdata` and `testdata`.
For Nottingham, whose frames are eighth notes, set `--config.data.frames_per_second=4`.
"""

from ml_collections import config_dict

from configs import default


def get_config() -> config_dict.ConfigDict:
    """One GRU of 256 units, windows of 50 frames."""
    config = default.get_config()
    config.data.name = "piano_roll"
    config.data.path = "data/JSB_Chorales.mat"
    config.train.sequence_length = 50
    config.train.max_gradient_norm = 5.0
    config.train.num_steps = 600  # overfits: the best validation is at 300 to 400
    config.train.eval_every = 100
    config.train.checkpoint_every = 100
    return config
