#!/usr/bin/env python3
"""Write tokenizer.json: a WordPiece tokenizer of characters, frequent English words and endings.

It stands in where a BERT is built with random weights, which have no tokenizer of their own: every text in Latin
letters is taken, in about as many tokens as BERT's own vocabulary would give to simple sentences.
"""

import argparse
import string
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = (
    "the of and to in a is that it was for on are as with his they at be this from have or by one had not but what all "
    "were when we there can an your which their said if do will each about how up out them then she many some so these "
    "would other into has more her two like him see time could no make than first been its who now people my made over "
    "did down only way find use may water long little very after words called just where most know get through back "
    "much before go good new write our used me man too any day same right look think also around another came come "
    "work three word must because does part even place well such here take why things help put years different away "
    "again off went old number great tell men say small every found still between name should home big give air line "
    "set own under read last never us left end along while might next sound below saw something thought both few those "
    "always looked show large often together asked house world going want school important until form food keep "
    "children feet land side without boy once animals life enough took four head above kind began almost live page got "
    "company based city made best bad film movie story love hate nice open shop cat dog sat"
)
_ENDINGS = "s es ed ing er est ly y al ion tion ment ness able ible ful less ous ive ity ist ism en th ship or 's"


def make_tokenizer() -> Tokenizer:
    """Return the tokenizer, which gives pairs of texts the segments 0 and 1 as BERT's own does."""
    characters = string.ascii_lowercase + string.digits
    pieces = [*_SPECIAL, *characters, *string.punctuation, *(f"##{each}" for each in characters)]
    pieces += [*_WORDS.split(), *(f"##{each}" for each in _ENDINGS.split())]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=_SPECIAL[1], max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def main() -> None:
    """Write the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("tokenizer.json"))
    make_tokenizer().save(str(parser.parse_args().output))


if __name__ == "__main__":
    main()
