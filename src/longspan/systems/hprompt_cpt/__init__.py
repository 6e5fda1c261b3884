"""HPrompt-CPT: continual pre-training with prompts that a hypernetwork makes of the input.

Formula   h = pool(E(x)), alpha = softmax(W h + b), P = sum_m alpha_m V_m; L = L_lm([P; x]) + l1 L_a + l2 L_da, where
          L_a = KL(T([R; x]) || LM([R; x])) under a random prompt R, T the model of the stage before, and L_da the
          squared cosine between the pooled states under P and under R
Source    arXiv:2310.13024 (Findings of EMNLP 2023): title, abstract and opening. Its body was not available and no code
          was released, so everything below the abstract is our reading, and results say so
Differs   unknown. The encoder reads what the model reads: masked text in pre-training, whole text afterwards; for
          causal models only the first quarter of a window, whose tokens are then not learned, since a prompt made of
          the whole window would tell the model what comes next
Checked   transformers' own losses without prompts; numbers by hand; rotary models under shifted positions
Training  a model and a stream of domains; fine-tuning afterwards needs no domain label
"""

from longspan.systems.hprompt_cpt.config import CptConfig

__all__ = ["CptConfig"]
