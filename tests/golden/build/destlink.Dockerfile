FROM BASE
RUN mkdir /real && ln -s /real /lnk && ln -s /real/f /flnk
COPY a.txt /lnk/
COPY b.txt /flnk
COPY dir /lnk
