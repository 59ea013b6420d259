FROM BASE
WORKDIR /w/x
WORKDIR y
COPY a.txt .
COPY b.txt ./sub/
RUN pwd > p
USER 12:34
WORKDIR /own
RUN touch /tmp/t || true
