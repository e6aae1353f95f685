"""Why a saved run scored a video as it did."""
