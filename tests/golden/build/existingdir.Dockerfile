FROM BASE
RUN mkdir -m 700 /ex
COPY a.txt /ex
COPY dir /ex
