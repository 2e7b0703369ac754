"""The models that are known by name, and their files on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seqembed.models.source import (
    ADDED_TOKENS,
    CONFIG,
    INDEX,
    PICKLED,
    SAFETENSORS,
    SENTENCEPIECE,
    TOKENIZER,
    VOCABULARY,
)


@dataclass(frozen=True)
class KnownModel:
    """A model that is known by name, and its files in a repository of the Hugging Face hub.

    revision: a commit, so that a name always means the same weights. files: the SHA-256 of each
    needed file, 64 hex characters, or None if not known. Files that an index names are needed too.
    """

    name: str
    repository: str
    revision: str
    files: Mapping[str, str | None]


# The spiece.model beside the weights in fp16. That beside those in fp32 is not known.
_PROT_T5_PIECES = "74da7b4afcde53faa570114b530c726135bdfcdb813dec3abfb27f9d44db7324"
_ANKH3_PIECES = "f2b5e1bbd110b71ca9b2878e1fcd3265610076ecc97bd696e8a745c9bacc54e0"
_ESM2_VOCABULARY = "0b82cc0a7c7cf9e567b1e5892d793285b9fbae822c964ca48696f7db44598e03"


def _esm2(size: str, revision: str, config: str | None, files: dict[str, str | None]) -> KnownModel:
    """Return a known ESM-2; config: the SHA-256 of config.json; files: of each other file."""
    name = f"esm2_{size}_UR50D"
    files = {CONFIG: config, VOCABULARY: _ESM2_VOCABULARY} | files
    return KnownModel(name, f"facebook/{name}", revision, files)


def _esmc(size: str, revision: str, config: str, files: dict[str, str | None]) -> KnownModel:
    """Return a known ESM C; config: the SHA-256 of config.json; files: of each other file."""
    return KnownModel(
        f"esmc_{size.lower()}", f"biohub/ESMC-{size}", revision, {CONFIG: config} | files
    )


def _esm1(name: str, revision: str) -> KnownModel:
    """Return a known ESM-1b or ESM-1v, of whose files no hash is known."""
    files = {CONFIG: None, VOCABULARY: None, PICKLED: None}
    return KnownModel(name, f"facebook/{name}", revision, files)


def _rostlab(
    name: str, revision: str, weights: str | None, *more: str, pieces: str | None = None
) -> KnownModel:
    """Return a known ProtT5 or ProstT5.

    weights: their SHA-256. more: other needed files. pieces: the SHA-256 of spiece.model.
    """
    files = {CONFIG: None, SENTENCEPIECE: pieces, PICKLED: weights} | dict.fromkeys(more)
    return KnownModel(name, f"Rostlab/{name}", revision, files)


def _ankh(name: str, revision: str, others: dict[str, str | None]) -> KnownModel:
    """Return a known Ankh; others: the SHA-256 of all but config.json and tokenizer.json."""
    files = {CONFIG: None, TOKENIZER: None} | others
    return KnownModel(name, f"ElnaggarLab/{name}", revision, files)


_MODELS = (
    _esm2(
        "t6_8M",
        "c731040fcd8d73dceaa04b0a8e6329b345b0f5df",
        "facb9355e8252149f6f99dff5fd1e32e890c3c655362b261d0c81cd6b5839c85",
        {SAFETENSORS: "24c5fa474c48f3b754b86efe752d5f189d2bcd88190fa2270fc92b2ef3034189"},
    ),
    _esm2(
        "t12_35M",
        "6fbf070e65b0b7291e7bbcd451118c216cff79d8",
        "ae07364efa51e0fa1d81da3fe608f6d948abdbbb69785ba6e1df379a458e58ee",
        {SAFETENSORS: "e35647818e0e064351d4531ed480d225a002567b4b2b93ad3a9246d753150fc0"},
    ),
    _esm2(
        "t30_150M",
        "a695f6045e2e32885fa60af20c13cb35398ce30c",
        "e512f68ec444d99477703a9806639ca83da3dbc19f6c5fe428d6e5b7460972dc",
        {SAFETENSORS: "c3f1da8aea53bddd32c246c86168c23b9fd72341fb9db9a94436f855f5053566"},
    ),
    _esm2(
        "t33_650M",
        "08e4846e537177426273712802403f7ba8261b6c",
        "539095c22efc52a09d6147074ba4ca119f76a890df5901213b2b55f7d2f96b2b",
        {SAFETENSORS: "a08adabb949fa67ad3c14b509d04fd60368b35007b0095e3358f81200c4f4db0"},
    ),
    _esm2(
        "t36_3B",
        "476b639933c8baad5ad09a60ac1a87f987b656fc",
        None,
        {
            PICKLED + INDEX: None,
            "pytorch_model-00001-of-00002.bin": (
                "0f971f11c449d21422aa982b791619c10351972992c735f4c3cd43fe09790412"
            ),
            "pytorch_model-00002-of-00002.bin": (
                "7560b46fc383c691fb74b915b7d4bcef40d3df181447f16ba4b298845e308d0c"
            ),
        },
    ),
    _esm2(
        "t48_15B",
        "5fbca39631164edc1d402a5aa369f982f72ee282",
        None,
        {VOCABULARY: None, PICKLED + INDEX: None},
    ),
    _esmc(
        "300M",
        "a59b831785f907e96e6a246b1d142bfb76df31ee",
        "0d4c14b1e7192175b5ce8bb6c0eaa6b06c02645d49d6708c84fc3c765fe83a04",
        {SAFETENSORS: "0772d8fe64bb25e14fe6f23b80e3c9a7d215d0da3c6cba5bd356d7c0e0bb22cc"},
    ),
    _esmc(
        "600M",
        "a7e82012c83126b9eedb055fea9fa84b6c02f094",
        "d7472be972ebd9f6d3afa659ca35a8080c8e4462813dd9801827329659ee9c43",
        {SAFETENSORS: "e4232c30fd35fe2f57051ec88a703996ac94520580b4b836894207a3d45d9ff8"},
    ),
    _esmc(
        "6B",
        "45b0fa5d7fb06faefbd5e3b89bdcef35d564e79a",
        "c5566fab6a17fd674141331fe75de917b7904d99fb7a410d2b1593c21e576913",
        {
            SAFETENSORS + INDEX: (
                "6846456e20e6ee2c37461f7bfc21d316d69bdaf165b925691afcb39e583244da"
            ),
            "model-00001-of-00006.safetensors": (
                "bd90149ff223e6ac1a0cac6147a5ae0df20d3a21df4f65356a1f19cd14f4aa8a"
            ),
            "model-00002-of-00006.safetensors": (
                "f75e2144d8269fe2eb4b3e0823fb089b94f176d8024153e85b8fb573a42294fa"
            ),
            "model-00003-of-00006.safetensors": (
                "f699f01ecc9691d9c6470492765fe54b8b5d2e9f277c139e89427433ffdfe0b2"
            ),
            "model-00004-of-00006.safetensors": (
                "46add1b7be098bbfdc3073884851ba3057f1b33ea23a158b650a37007dabd13d"
            ),
            "model-00005-of-00006.safetensors": (
                "1e1cb62f060a34e18f54a31a76683ef888b8cec59e73315f5b31d25d45a1f88c"
            ),
            "model-00006-of-00006.safetensors": (
                "56c73e13ae96e777ce65eee99364056069ef93b646470f352f83c5f1037b1b18"
            ),
        },
    ),
    _esm1("esm1b_t33_650M_UR50S", "7b37824baec4d3658e1df7479222a7c79b465b76"),
    _esm1("esm1v_t33_650M_UR90S_1", "8bfdb1892536cc77bd0760b9c25ddced2cd0b4c8"),
    _esm1("esm1v_t33_650M_UR90S_2", "3c1e9e64480f069b163e456c361bfd80a8bab04c"),
    _esm1("esm1v_t33_650M_UR90S_3", "0b00fd112e63f6b5e70a9cd8484d4e660312ce70"),
    _esm1("esm1v_t33_650M_UR90S_4", "443968f644da132d323bbc6321a6d443149fa57b"),
    _esm1("esm1v_t33_650M_UR90S_5", "fb2e51cb0f605cbad2c4ca3bb784be7bc8e2f4a8"),
    _rostlab(
        "prot_t5_xl_half_uniref50-enc",
        "94a6abc029ae13029317b140b7424e012bf8dfbf",
        "7f51ba885541c7dc569d46b796af57cc7a2ba7945107dced4f19d1b5ec091157",
        pieces=_PROT_T5_PIECES,
    ),
    _rostlab(
        "prot_t5_xl_uniref50",
        "d604cdc190f7df5186404c8729934f0ee9a4b0e4",
        "c06141d42e93c12b5f6d95c701952156bd4079661f5f2d981d0d2036ba96dae9",
    ),
    _rostlab("prot_t5_xl_bfd", "7ae1d5c1d148d6c65c7e294cc72807e5b454fdb7", None),
    _rostlab(
        "ProstT5",
        "d7d097d5bf9a993ab8f68488b4681d6ca70db9e5",
        "85a7f30cbfdd6c685e31058ec0be04992df81726d8b626e5b51ef27bac32bd33",
        ADDED_TOKENS,
    ),
    _rostlab(
        "ProstT5_fp16",
        "07a6547d51de603f1be84fd9f2db4680ee535a86",
        "b1a9ffcef73280cc57f090ad6446b4116b574b6c75d83ccc32778282f7f00855",
        ADDED_TOKENS,
        pieces=_PROT_T5_PIECES,
    ),
    _ankh(
        "ankh-base",
        "d99cb6b966530dfc2ae96bc69d9255c2a07308b0",
        {PICKLED: "9b2a886374f0ff4a893f4e7a989deed76bb2458c8998bd5202ea8e97d92ddcc3"},
    ),
    _ankh(
        "ankh-large",
        "74b371dbfa3ee0a05d32ae74df0c2e0b82d6b9a6",
        {PICKLED: "517b6e8b279dedcb477af240b35c46bd6eb3307723eb281e60d4b2c8a87b889b"},
    ),
    _ankh(
        "ankh3-large",
        "2be091622e8a393f0ef21735070084123c874b6e",
        {
            SENTENCEPIECE: _ANKH3_PIECES,
            PICKLED: "26321a345e07a25b21c6c41b651c4db91b420892e52c0dcbc55bd7a8f510f95b",
        },
    ),
    _ankh(
        "ankh3-xl",
        "e00113df5c95ef71df7ea3f5a73d56bd00e473a4",
        {
            SENTENCEPIECE: _ANKH3_PIECES,
            PICKLED + INDEX: None,
            "pytorch_model-00001-of-00003.bin": (
                "2c9793cbee16697cd4149debe07d3a27143e280f6e970fa46042aae820fea981"
            ),
            "pytorch_model-00002-of-00003.bin": (
                "31c5a860e414513c829ae52affb0970d7cef2c0545df2d6e1338b6806ab7174b"
            ),
            "pytorch_model-00003-of-00003.bin": (
                "055a853bdd3623db95a637935aa299427e837cd8ea69fc04708b0262508bec75"
            ),
        },
    ),
    KnownModel(
        "DNABERT-S",
        "zhihan1996/DNABERT-S",
        "00e47f96cdea35e4b6f5df89e5419cbe47d490c6",
        {
            CONFIG: "d54c142114563aa34ef7c2b54ccc921d08e50cd7c3cd69c439d5e0d2bbcfcdee",
            TOKENIZER: "667f5a0e6e9630f7052b004784dda7c7aeba395cc4ca3c01b11b02e6aa29d7b1",
            PICKLED: "f3cfc3d0541859df64759e758cc4bc40fe1d5760799a7d098a9f9f09501c1e5f",
        },
    ),
    KnownModel(
        "DNABERT-2",
        "zhihan1996/DNABERT-2-117M",
        "7bce263b15377fc15361f52cfab88f8b586abda0",
        {
            CONFIG: "ba9bdafaff0cc3e30556927474d4a179519a9864012bed2628e9f1bc23c84bfd",
            TOKENIZER: "5d178e8ce2ba55df97fff197f4b30f40133b95d7096be398c2df6b526c5d8cd3",
            PICKLED: "7ff39ec77a484dd01070a41bfd6e95cdd7247bec80fe357ab43a4be33687aeba",
        },
    ),
)

# The known models by name.
KNOWN = {model.name: model for model in _MODELS}
