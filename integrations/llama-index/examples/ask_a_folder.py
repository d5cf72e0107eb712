"""Ask a folder of images, PDF, videos and texts a question, and let a multimodal model answer from what is found.

    python ask_a_folder.py my-folder "a red circle"

Offline, with the bundled model and a stand-in for the language model, which only tells what it was shown: put any
multimodal LLM of LlamaIndex in its place.
"""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from llama_index.core import VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ImageBlock
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import LLMMetadata, MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.embeddings.tte import TTEEmbedding, TTEMediaReader
from PIL import Image

if TYPE_CHECKING:
    from llama_index.core.base.response.schema import Response


class ShowAndTell(MockLLM):
    """Stands in for a multimodal LLM: its answer tells what it was shown."""

    @property
    def metadata(self) -> LLMMetadata:
        """A chat model that can be shown many pictures at once."""
        return LLMMetadata(context_window=100_000, is_chat_model=True)

    def chat(self, messages: list[ChatMessage], **kwargs: object) -> ChatResponse:
        """Answer with the sizes of the pictures in the messages."""
        blocks = [block for message in messages for block in message.blocks if isinstance(block, ImageBlock)]
        sizes = [Image.open(block.resolve_image()).size for block in blocks]
        answer = f"I was shown {len(sizes)} pictures: " + ", ".join(f"{width}x{height}" for width, height in sizes)
        return ChatResponse(message=ChatMessage(role="assistant", content=answer))


def ask(folder: str, question: str, top_k: int = 3) -> Response:
    """Index a folder and answer a question from it."""
    embedding = TTEEmbedding(model_name="tte-flash-tiny")
    nodes = IngestionPipeline(transformations=[embedding]).run(nodes=TTEMediaReader().load_data(folder))
    index = VectorStoreIndex(nodes, embed_model=embedding)
    retriever = index.as_retriever(similarity_top_k=top_k)
    return RetrieverQueryEngine.from_args(retriever, llm=ShowAndTell(), multimodal=True).query(question)


def main() -> None:
    """Answer the question on the command line, and say where the answer comes from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="images, PDF, videos, texts")
    parser.add_argument("question")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    response = ask(arguments.folder, arguments.question)
    sources = [f"{source.score:.3f} {source.node.metadata['uri']}" for source in response.source_nodes]
    sys.stdout.write("\n".join([str(response), *sources]) + "\n")


if __name__ == "__main__":
    main()
