"""ResNet-50 for ImageNet-1k: the network of the field's usual comparisons; its weights are given by the user.

make serve MODEL=resnet50 WEIGHTS=resnet50.pth       (torchvision's or timm's key names, also .safetensors)
make serve MODEL=resnet50 WEIGHTS=random             (untrained, and marked so: speed and sizes are the same)
"""

from tracing import NEEDED, Input, Recipe


def build_model(checkpoint):
    from tracing.networks.resnet import build_resnet

    return build_resnet(checkpoint)


recipe = Recipe(
    name="resnet50",
    description="224x224 pictures in ImageNet-1k's 1000 classes, ResNet-50 (25.6 M)",
    build_model=build_model,
    checkpoint=NEEDED,
    inputs=[Input(name="image", shape=("batch", 3, 224, 224))],
    # 5 is what AWS's documentation of batching computes for ResNet-50 on inf1; 1 is for a lone client. TorchServe fills
    # batches only as far as requests are waiting, and each further size would cost a copy of the weights on every core.
    batch_sizes=[1, 5],
    handler="image_classifier",
    settings={
        "labels": [str(number) for number in range(1000)],  # the classes' numbers, in ImageNet's usual order
        # Of ImageNet's training pictures, by which published checkpoints are normalised.
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "crop_share": 0.875,  # the short side to 256, then the middle 224
    },
    golden=["cat.png", "rocket.png"],
)
