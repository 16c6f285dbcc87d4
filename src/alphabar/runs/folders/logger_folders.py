"""Sets the folders of the stock loggers of a run."""

from omegaconf import DictConfig

from alphabar.config.allowed_targets import locate, reason_for_refusal
from alphabar.config.signatures import accepted_parameters

FOLDER = "save_dir"  # the argument of Lightning's loggers


def give_folders(cfg: DictConfig, former: str | None = None) -> None:
    """Sets the folder of each logger without `_partial_` to that of the run, unless the user chose one.

    former: the folder of the run when its configuration was written. Classes that are refused are skipped; `check` reports them.
    """
    for node in cfg.logger.values() if isinstance(cfg.logger, DictConfig) else ():
        if not isinstance(node, DictConfig) or "_target_" not in node or node.get("_partial_") or reason_for_refusal(node._target_):
            continue
        try:
            takes_folder = FOLDER in accepted_parameters(locate(node._target_))[0]
        except ValueError:
            continue
        if takes_folder and node.get(FOLDER) in (None, former):
            node[FOLDER] = str(cfg.run_dir)
