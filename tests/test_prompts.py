import torch
from open_clip import SimpleTokenizer

from mvfa_core.prompts import TEMPLATES, PromptEnsemble, text_features


def test_the_ensemble_has_the_published_size_and_no_double():
    assert len(TEMPLATES) == len(set(TEMPLATES)) == 35
    normal, abnormal = PromptEnsemble().sentences("Liver")
    assert len(set(normal)) == 7 * 35 and len(set(abnormal)) == 5 * 35 and not set(normal) & set(abnormal)


def test_every_sentence_fits_into_the_demo_backbones_context():
    tokenizer = SimpleTokenizer(context_length=77)
    for organ in ("histopathological image", "Chest X-ray film", "retinal OCT"):
        sentences = [s for kind in PromptEnsemble().sentences(organ) for s in kind]
        assert int((tokenizer(sentences) != 0).sum(dim=1).max()) <= 32


class Letters:
    """A text encoder that counts two words."""

    def encode_text(self, sentences):
        return torch.tensor([[1.0, float("damaged" in s or "broken" in s)] for s in sentences])


def test_features_are_unit_vectors_of_mean_unit_vectors():
    ensemble = PromptEnsemble(normal=("{}",), abnormal=("damaged {}", "{}"), templates=("a {}.",))
    features = text_features(Letters(), "x", ensemble)
    mean = (torch.tensor([1.0, 1.0]) / 2**0.5 + torch.tensor([1.0, 0.0])) / 2
    assert torch.allclose(features[:, 0], torch.tensor([1.0, 0.0]))
    assert torch.allclose(features[:, 1], mean / mean.norm())
