"""Made the .j2c files beside this one; needs imagecodecs, which the tests do not."""

from pathlib import Path

from tests.radiograph import phantom

if __name__ == "__main__":
    import imagecodecs  # type: ignore[import-not-found]  # not among the dependencies

    here = Path(__file__).parent
    image = phantom.picture(bits=12)
    (here / "phantom-lossless.j2c").write_bytes(imagecodecs.htj2k_encode(image))
    lossy = imagecodecs.htj2k_encode(image, level=0.0001, reversible=False)
    (here / "phantom-lossy.j2c").write_bytes(lossy)
