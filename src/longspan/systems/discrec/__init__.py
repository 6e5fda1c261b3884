"""DiscRec: generative recommendation in which tokens know their item and their place in it.

An item is a string of codes (a semantic ID); a T5 reads the codes of a user's last items and writes those of the next
one. Beside the token embedding e, a collaborative branch c sees the tokens of one item only, and a gate mixes both.

Formula   out = g_1 e + g_2 c,  g = softmax(<e, w_1>, <c, w_2>) in each token; c = branch(e + V[slot]), inside an item
Source    Liu, Bai, Zhao, Zhang, Feng, Rong, arXiv:2506.15576; the authors' code Ten-Mao/DiscRec (7cc75ce)
"""
