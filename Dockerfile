# Trains on a GPU:
#   docker build -t cutpaste-tf .
#   docker run --gpus all --user $(id -u) -v DATA:/data:ro -v $PWD/runs:/runs cutpaste-tf \
#     --flagfile=experiments/resnet18_cutpaste_3way.flags --data_dir=/data --workdir=/runs
# With --entrypoint=python and "-m cutpaste_tf.predict ..." it runs the other commands.
FROM tensorflow/tensorflow:2.20.0-gpu
COPY . /app
WORKDIR /app
RUN pip install --no-cache-dir ".[demo]" && useradd --create-home cutpaste
ENV HOME=/home/cutpaste MPLCONFIGDIR=/tmp/matplotlib
USER cutpaste
ENTRYPOINT ["python", "-m", "cutpaste_tf.main"]
