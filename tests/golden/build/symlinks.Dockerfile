FROM BASE
COPY link /l
COPY dlink /dl
COPY dlink/ /dl2/
