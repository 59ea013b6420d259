FROM BASE
COPY a.txt /f
COPY b.txt /f
RUN mkdir -p /t/d && touch /t/d/old
COPY dir /t/d
