"""Construction of the configured feature extractors."""

from alphabar.errors import UserError
from alphabar.metrics import Extractor, Features, Splits


def extractors_of(features: Features, splits: Splits) -> list[Extractor]:
    """Returns the feature extractors. Raises UserError, with the name of the group, if the data do not allow them."""
    try:
        return features.extractors(splits)
    except UserError as error:
        raise UserError(f"features: {error}") from error
