"""Words of the GloVe variant: word vector beside a character CNN, projected."""

from img_deploy.kernels.op import Op
from img_deploy.kernels.word_embedding import reference

word_embedding = Op(reference.word_embedding, fake=reference.fake, trained=reference.word_embedding_trained)
