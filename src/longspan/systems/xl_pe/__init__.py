"""XL-PE: cross-lingual positions for translation, after the idea of arXiv:2004.13310.

Formula   rank[order[k]] = k, where order puts source words into target order; the encoder reads PE(rank), too
Source    arXiv:2004.13310, of which title, abstract and opening were read: how both positions are joined is our reading
          (model.py). The reorderer is Nakagawa's of 2015 (google/topdown-btg-preordering, read in code), its measures
          are those of neubig/lader
Rooms     alignment, ranks, bracketing: what alignments say about order; features, search, parser: the reorderer;
          validation: how good it is; model, positions: the translator; preparing, training, scoring: a study in files
"""
