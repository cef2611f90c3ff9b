"""The model side: any supported Hugging Face MLLM, frozen, driven through hooks on stock classes."""
