"""What was tuned, for other packages: PEFT's adapters, whole models, embeddings for servers."""

from blackbox_delta.exports.adapters import export_peft, write_adapter
from blackbox_delta.exports.embeds import PromptEmbeds, prompt_embeds
from blackbox_delta.exports.merged import export_merged

__all__ = ["PromptEmbeds", "export_merged", "export_peft", "prompt_embeds", "write_adapter"]
