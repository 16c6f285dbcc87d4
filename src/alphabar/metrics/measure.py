"""Making extractors of what was configured."""

from alphabar.errors import UserError
from alphabar.metrics import Extractor, Features, Splits


def extractors_of(features: Features, splits: Splits) -> list[Extractor]:
    """What the features are extracted with. Raises UserError, with the name of the group, if these data do not allow it."""
    try:
        return features.extractors(splits)
    except UserError as error:
        raise UserError(f"features: {error}") from error
