"""The retriever where LlamaIndex puts one: query engine, fusion, tool, docstore."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

import pytest
from llama_index.core.llms import LLMMetadata, MockLLM
from llama_index.core.llms.mock import MockLLMWithChatMemoryOfLastCall
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import ImageNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import RetrieverTool

from tte_retriever.media import load_image


def test_a_query_engine_shows_the_pictures_to_the_llm(make, folder):
    class Model(MockLLMWithChatMemoryOfLastCall):
        metadata: ClassVar[LLMMetadata] = LLMMetadata(context_window=100_000, is_chat_model=True)

    llm = Model()
    retriever = make(similarity_top_k=7)
    response = RetrieverQueryEngine.from_args(retriever, llm=llm, multimodal=True).query("a circle")
    assert len(response.source_nodes) == 7
    blocks = [block for message in llm.last_chat_messages for block in message.blocks]
    shown = {block.resolve_image().read() for block in blocks if block.block_type == "image"}
    pictures = {hit.node.image_path for hit in response.source_nodes if isinstance(hit.node, ImageNode)}
    assert len(pictures) == 6
    assert shown == {Path(picture).read_bytes() for picture in pictures}
    assert any("a purple star above a black square" in block.text for block in blocks if block.block_type == "text")


@pytest.mark.parametrize("use_async", [False, True])
def test_a_fusion_retriever_takes_it(make, use_async, found):
    retriever = make(similarity_top_k=7)
    fusion = QueryFusionRetriever(
        [retriever, retriever], llm=MockLLM(), num_queries=1, similarity_top_k=7, use_async=use_async
    )
    assert sorted(map(str, found(fusion.retrieve("a circle")))) == sorted(
        map(str, found(retriever.retrieve("a circle")))
    )


def test_an_agent_can_call_it_as_a_tool(make):
    tool = RetrieverTool.from_defaults(make(similarity_top_k=1), name="folder", description="finds files")
    output = tool.call("a purple star above a black square")
    assert "a purple star above a black square" in output.content
    assert "uri: notes.md" in output.content
    assert "asset_id" not in output.content
    assert asyncio.run(tool.acall("a purple star above a black square")).content == output.content


def test_a_hit_survives_a_docstore(make, tmp_path):
    docstore = SimpleDocumentStore()
    hits = [hit.node for hit in make().retrieve("a circle")]
    docstore.add_documents(hits)
    docstore.persist(str(tmp_path / "docstore.json"))
    loaded = SimpleDocumentStore.from_persist_path(str(tmp_path / "docstore.json"))
    for node in hits:
        again = loaded.get_document(node.node_id)
        assert (again.metadata, again.ref_doc_id, again.hash) == (node.metadata, node.ref_doc_id, node.hash)
        if isinstance(node, ImageNode):
            load_image(Path(again.image_path))
    assert (tmp_path / "docstore.json").stat().st_size < 20_000
