"""What bundles say of Core AI artifacts."""

from hydra_export.target import Card

# In Apple's package for Linux; `model.load_function` takes what the asset calls the function of a head count.
CARD = Card(
    imports=(
        "import asyncio\nimport gc\n\nimport numpy as np\nfrom coreai.authoring import AIModelAsset\n"
        "from coreai.runtime import NDArray"
    ),
    code=(
        "async def run(image):\n"
        '    async with AIModelAsset.load("{path}").executable() as model:\n'
        '        outputs = await model.load_function(["main"{last}][-1])({{"image": NDArray(image)}})\n'
        '        return outputs["{output}"].numpy()\n\n\n'
        "{output} = asyncio.run(run({image}))\n"
        "gc.collect()  # what is left of Apple's runtime may abort the process when Python ends"
    ),
    choice="functions `k3`, ... are the head counts",
)
